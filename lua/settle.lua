--[[
  settle: close intents and tell the bouncer what Postgres says, if that is news.

  Compensation, release, publish, rebuild: all are this one script, so all may be repeated,
  doubled, late or out of order. Units go back (the INCR) only if their very intent is still
  open, and figures are taken only if their (epoch, version) is newer than what is known.

  KEYS
    drop     figures, terms and the sum of open intents (hash)
    intents  request -> attempt:quantity:deadline_ms:buyer (hash)
    buyers   buyer -> units held or asked for, a suspicion (hash)
    cooling  buyer -> until when he must wait, in ms, a suspicion (hash)
    dues     bell -> when it rings, in ms (zset)
    bell     rings by expiring; carries no truth
    seats    named units that were free at seats_version, a suspicion (bitmap)
    picked   named units of open intents (bitmap)
    picks    request -> packed numbers that its open intent set in `picked` (hash)
    news     version -> packed changes that wait for their predecessors (hash)
  ARGV
    epoch : int       of the figures
    figures : packed  version, free, held, sold, withdrawn, total; empty: none to tell
    changes : packed  named units that this version took, and that it freed: two lists; empty: not known
    terms : packed    version, starts_ms, ends_ms, shut, max_per_buyer, max_per_order, promised, cools, named; empty: none
    closed : packed   request, attempt, kept (1: it has its units), ...
    uses : packed     buyer, units, exact (1: units are the truth, 0: add them), ...
    cools : packed    buyer, ms that he must wait yet (0: he need not), ...
    ring_ms : int     ring the bell after so long; 0: no bell
    life_s : int      how long an untouched drop is remembered
    channel : text    where whoever follows the sale live hears that there is news

  RETURNS {word, gave_back, available, {before}}
    newer   the figures were taken
    known   they were not news, or there were none
    absent  nothing is known of this drop and none were told
    before is the epoch whose place was taken now, its version and its units held or sold; else empty

  INVARIANTS
    INV-6   open = sum of the intents, before and after; `picked` = all that is in `picks`
    INV-9   (epoch, version) only rises; `seats` is what Postgres had at seats_version, or is missing
]]
local PENDING_MAX = 64 -- versions whose predecessors are waited for
local known = redis.call("HMGET", drop, "epoch", "version", "terms_version", "open", "held", "sold", "named",
  "seats_version")
local now, word = cmsgpack.unpack(figures), "known"
local their_epoch, their_version = tonumber(known[1]), tonumber(known[2])
local time = redis.call("TIME")
if their_epoch and their_epoch > time[1] + 86400 then
  their_epoch = nil -- epochs are seconds of a clock: this one is no epoch, and must not fence for ever
end
if #now == 0 and not their_epoch then
  return { "absent", 0, 0, {} }
end

local open, before = tonumber(known[4]) or 0, {}
if #now > 0 then
  local fresh = not their_epoch or epoch > their_epoch
  if fresh then
    -- Another history: its intents and its buyers mean nothing here.
    redis.call("DEL", drop, intents, buyers, cooling, seats, picked, picks, news)
    open, known[3], known[7], known[8] = 0, false, false, false
    if their_epoch then
      before = { their_epoch, their_version, (tonumber(known[5]) or 0) + (tonumber(known[6]) or 0) }
    end
    redis.call("HSET", drop, "born_ms", string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000)))
  end
  if fresh or (epoch == their_epoch and now[1] > their_version) then
    redis.call("HSET", drop, "epoch", string.format("%.0f", epoch), "version", string.format("%.0f", now[1]),
      "free", now[2], "held", now[3], "sold", now[4], "withdrawn", now[5], "total", now[6], "open", open)
    word = "newer"
  end
end

local new_terms, is_told = cmsgpack.unpack(terms), word == "newer"
if #new_terms > 0 and epoch >= (their_epoch or 0) and new_terms[1] > (tonumber(known[3]) or 0) then
  redis.call("HSET", drop, "terms_version", new_terms[1], "starts_ms", string.format("%.0f", new_terms[2]),
    "ends_ms", new_terms[3] == 0 and "" or string.format("%.0f", new_terms[3]), "shut", new_terms[4],
    "max_per_buyer", new_terms[5], "max_per_order", new_terms[6], "promised", new_terms[7],
    "cools", new_terms[8], "named", new_terms[9])
  known[7] = tostring(new_terms[9])
  is_told = true
end
if is_told then
  redis.pcall("PUBLISH", channel, "") -- a hint: nothing depends on it, so it may not be allowed
end

local is_named = known[7] == "1"
if is_named and #now > 0 and (not their_epoch or epoch >= their_epoch) then
  local at, told = tonumber(known[8]), cmsgpack.unpack(changes)
  if at and redis.call("EXISTS", seats) == 0 then
    at = nil -- that key was lost alone
    redis.call("HDEL", drop, "seats_version")
  end
  -- Figures alone move no bitmap: it stays what was true at its own version until who made the next
  -- one tells it, or somebody loads the whole.
  if at and #told > 0 and now[1] == at + 1 then
    while told do
      for free, numbers in ipairs(told) do
        for _, number in ipairs(numbers) do
          redis.call("SETBIT", seats, number, free - 1)
        end
      end
      at = at + 1
      told = redis.call("HGET", news, string.format("%.0f", at + 1))
      if told then
        told = cmsgpack.unpack(told)
        redis.call("HDEL", news, string.format("%.0f", at + 1))
      end
    end
    redis.call("HSET", drop, "seats_version", string.format("%.0f", at))
  elseif #told > 0 and (not at or now[1] > at) then
    if redis.call("HLEN", news) >= PENDING_MAX then
      -- Whoever had to tell the version in between is gone: somebody will load the whole.
      redis.call("DEL", news, seats)
      redis.call("HDEL", drop, "seats_version")
    end
    redis.call("HSET", news, string.format("%.0f", now[1]), changes)
  end
end

local ends = cmsgpack.unpack(closed)
local names, gave_back, gone, adds = {}, 0, {}, {}
for i = 1, #ends, 3 do
  names[#names + 1] = ends[i]
end
local standing = #names > 0 and redis.call("HMGET", intents, unpack(names)) or {}
local last, written -- nearly all of a batch are at the same attempt
for n = 1, #names do
  local at = (n - 1) * 3
  if standing[n] then
    if ends[at + 2] ~= last then
      last = ends[at + 2]
      written = string.format("%.0f", last) .. ":"
    end
    local quantity, rest
    if string.sub(standing[n], 1, #written) == written then
      quantity, rest = string.match(standing[n], "^(%d+):()", #written + 1)
    end
    if quantity then
      gave_back = gave_back + quantity
      gone[#gone + 1] = names[n]
      if ends[at + 3] == 0 then
        local buyer = string.match(standing[n], "^%d+:(.*)$", rest)
        adds[buyer] = (adds[buyer] or 0) - quantity
      end
    end
  end
end
if #gone > 0 then
  redis.call("HDEL", intents, unpack(gone))
  redis.call("HINCRBY", drop, "open", -gave_back)
  local own = is_named and redis.call("HMGET", picks, unpack(gone)) or {}
  for n = 1, #own do
    for _, number in ipairs(own[n] and cmsgpack.unpack(own[n]) or {}) do
      redis.call("SETBIT", picked, number, 0)
    end
  end
  if is_named then
    redis.call("HDEL", picks, unpack(gone))
  end
end

local spoken = cmsgpack.unpack(uses)
for i = 1, #spoken, 3 do
  if spoken[i + 2] == 1 then
    redis.call("HSET", buyers, spoken[i], spoken[i + 1])
    adds[spoken[i]] = nil
  else
    adds[spoken[i]] = (adds[spoken[i]] or 0) + spoken[i + 1]
  end
end
for buyer, units in pairs(adds) do
  if units ~= 0 and redis.call("HEXISTS", buyers, buyer) == 1
    and redis.call("HINCRBY", buyers, buyer, units) <= 0 then
    redis.call("HDEL", buyers, buyer)
  end
end

local waits = cmsgpack.unpack(cools)
for i = 1, #waits, 2 do
  if waits[i + 1] > 0 then
    redis.call("HSET", cooling, waits[i],
      string.format("%.0f", time[1] * 1000 + math.floor(time[2] / 1000) + waits[i + 1]))
    redis.call("EXPIRE", cooling, life_s)
  else
    redis.call("HDEL", cooling, waits[i])
  end
end

if ring_ms > 0 then
  redis.call("SET", bell, "", "PX", ring_ms)
  redis.call("ZADD", dues, time[1] * 1000 + math.floor(time[2] / 1000) + ring_ms, bell)
  redis.call("EXPIRE", dues, life_s)
end
redis.call("EXPIRE", drop, life_s)
redis.call("EXPIRE", intents, life_s)
redis.call("EXPIRE", buyers, life_s)
if is_named then
  redis.call("EXPIRE", seats, life_s)
  redis.call("EXPIRE", picked, life_s)
  redis.call("EXPIRE", picks, life_s)
  redis.call("EXPIRE", news, life_s)
end
local left = redis.call("HMGET", drop, "free", "open")
if (left[2] ~= "0" or is_named) and redis.call("EXISTS", intents) == 0 then
  -- Nobody is left to close what is still counted or picked: one of these keys was lost alone.
  redis.call("HSET", drop, "open", 0)
  redis.call("DEL", picked, picks)
  left[2] = 0
end
return { word, gave_back, tonumber(left[1]) - tonumber(left[2]), before }
