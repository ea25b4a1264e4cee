--[[
  admit: let a batch of requests through to Postgres, or say why not.

  The bouncer decides only "no". An "admitted" is leave to try Postgres, which alone decides
  "yes". Each admission takes its units off what is available and writes an intent, so that
  whoever closes that intent gives back exactly those units, once. A refusal changes nothing.

  KEYS
    drop     figures, terms and the sum of open intents (hash)
    intents  request -> attempt:quantity:deadline_ms:buyer (hash)
    buyers   buyer -> units held or asked for, a suspicion (hash)
    cooling  buyer -> until when he must wait, in ms, a suspicion (hash)
    seats    named units that were free at seats_version, a suspicion (bitmap)
    picked   named units of open intents (bitmap)
    picks    request -> packed numbers that its open intent set in `picked` (hash)
  ARGV
    epoch : int      the epoch the worker believes in
    ttl_ms : int     how long an intent may stay open before its worker is taken for dead
    batch : packed   request, attempt, quantity, buyer, trusted (1: limit, cool-down and units were
                     checked), ...; empty: only tell what is available
    wanted : packed  numbers that it picks, one list a request (none: adjacent ones, as many as its
                     quantity); empty: nobody picks

  RETURNS {word, available, {figures}, {words}, young, named, {firsts}}
    unknown   nothing is known of this drop: load it, never say sold out
    fenced    the worker's epoch is not the bouncer's
    shut      preparing, paused, not_started or ended: see words[1]
    open      words, one a request: admitted, repeated, too_many, limit, cooling, sold_out, taken, contended or scattered
              taken: a named unit is not on the shelf; contended: on somebody's way to Postgres;
              scattered: no such run
    no words mean that all of the batch are admitted
    young is 1 while requests of before this drop was (re)filled may be on their way to Postgres
    named is 1 if buyers pick its units, 2 if so and `seats` is missing: then nobody is refused for it
    firsts, one a request, begin the runs that were chosen here; 0: none; no firsts: none at all

  INVARIANTS
    INV-6   available = free - sum of open intents, and an admission never takes it below zero
            and each bit of `picked` is in one entry of `picks`, that of an open intent
    INV-4   a request has at most one open intent
]]
local LOOKS_MAX = 16384 -- bytes of `seats` that a batch looks at for the best: nobody waits longer
local m = redis.call("HMGET", drop, "epoch", "version", "free", "held", "sold", "withdrawn", "total",
  "open", "starts_ms", "ends_ms", "shut", "max_per_buyer", "max_per_order", "born_ms", "promised",
  "cools", "named", "seats_version")
if not m[1] or not m[11] then
  return { "unknown", 0, {}, {}, 0, 0, {} }
end
local named = m[17] == "1" and (m[18] and 1 or 2) or 0
local free, open = tonumber(m[3]), tonumber(m[8])
local available = free - open
-- More units may have been promised than are on the shelf: then "sold out" is not for ever.
local total = math.max(tonumber(m[7]), tonumber(m[15]) or 0)
local figures = { tonumber(m[1]), tonumber(m[2]), free, tonumber(m[4]), tonumber(m[5]), tonumber(m[6]), total }
if tonumber(m[1]) ~= epoch then
  return { "fenced", available, figures, {}, 0, named, {} }
end

local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local young = now_ms < (tonumber(m[14]) or 0) + ttl_ms and 1 or 0
local shut = m[11]
if shut == "" and m[10] ~= "" and math.max(now_ms, tonumber(m[9])) >= tonumber(m[10]) then
  shut = "ended"
elseif shut == "" and now_ms < tonumber(m[9]) then
  shut = "not_started"
end
if shut ~= "" then
  return { "shut", available, figures, { shut }, young, named, {} }
end

local asked = cmsgpack.unpack(batch)
local requests, names = {}, {}
for i = 1, #asked, 5 do
  requests[#requests + 1] = asked[i]
  names[#names + 1] = asked[i + 3]
end
if #requests == 0 then
  return { "open", available, figures, {}, young, named, {} }
end
local limit, order = tonumber(m[12]), tonumber(m[13])
local standing = redis.call("HMGET", intents, unpack(requests))
local used = limit > 0 and redis.call("HMGET", buyers, unpack(names)) or {}

local waits = m[16] == "1" and redis.call("HMGET", cooling, unpack(names)) or {}

local turns, place, set_aside -- of a named drop only
local firsts, numbers, theirs = {}, {}, {}
if named > 0 then
  local shelf, away = redis.call("GET", seats), redis.call("GET", picked) or ""
  if not shelf then
    named = 2 -- that key was lost alone
  end
  local wants, mine, touched = cmsgpack.unpack(wanted), {}, {} -- bits set here, and their bytes

  local function bit(map, number)
    local byte = string.byte(map, math.floor(number / 8) + 1) or 0
    local worth = 2 ^ (7 - number % 8)
    return byte % (2 * worth) >= worth
  end

  -- Runs of free units, looked for only as far as somebody needs them. All who pick come first:
  -- then a batch only takes away from the front of runs, and no byte is looked at twice.
  local starts, lengths, runs, at, grows = {}, {}, 0, 0, false
  local from, longest, known = {}, 0, {}
  local ends, looks = shelf and #shelf or 0, 0
  local function extend(start, units)
    if grows then
      lengths[runs] = lengths[runs] + units
    else
      runs, grows = runs + 1, true
      starts[runs], lengths[runs] = start, units
    end
    longest = math.max(longest, lengths[runs])
  end
  local function look()
    at, looks = at + 1, looks + 1
    if looks == LOOKS_MAX then
      ends = at
    end
    local free, gone = string.byte(shelf, at), string.byte(away, at) or 0
    if free == 0 then
      grows = false
      at = (string.find(shelf, "[^%z]", at) or ends + 1) - 1
      return
    end
    local base, plain = at * 8 - 8, gone == 0 and not touched[at]
    if plain and free == 255 then
      extend(base, 8)
      return
    end
    local spans = plain and known[free]
    if not spans then
      -- Where free units begin in a byte, and how many they are; a byte's pattern is read once.
      local worth, units = 128, 0
      spans = {}
      for offset = 0, 8 do
        if offset < 8 and free % (2 * worth) >= worth and gone % (2 * worth) < worth
          and not mine[base + offset] then
          units = units + 1
        elseif units > 0 then
          spans[#spans + 1] = offset - units
          spans[#spans + 1] = units
          units = 0
        end
        worth = worth / 2
      end
      known[free] = plain and spans or known[free]
    end
    grows = grows and spans[1] == 0
    for i = 1, #spans, 2 do
      extend(base + spans[i], spans[i + 1])
      grows = spans[i] + spans[i + 1] == 8
    end
  end
  local function run_of(quantity)
    if at >= ends and quantity > longest then
      return nil
    end
    local r = from[quantity] or 1 -- whoever was too short before is so still
    while r > runs or lengths[r] < quantity do
      if r < runs or r == runs and not grows then
        r = r + 1
      elseif at < ends then
        look()
      else
        from[quantity] = r
        return nil
      end
    end
    from[quantity] = r
    local first = starts[r]
    starts[r], lengths[r] = first + quantity, lengths[r] - quantity
    return first
  end

  turns = {}
  for picking = 1, 0, -1 do
    for n = 1, #requests do
      firsts[n] = 0
      wants[n] = wants[n] or {}
      if (#wants[n] > 0) == (picking == 1) then
        turns[#turns + 1] = n
      end
    end
  end

  -- What stands in the way of a request, if anything does; `lacks`: there are too few units.
  place = function(n, quantity, trusted, lacks)
    local want, word = wants[n], nil
    if #want > 0 then
      if not trusted then
        for _, number in ipairs(want) do
          if named == 1 and not bit(shelf, number) then
            return "taken"
          elseif mine[number] or bit(away, number) then
            word = "contended"
          end
        end
      end
      return word or lacks and "taken" or nil
    elseif lacks then
      return "sold_out"
    elseif named == 1 and not trusted then
      firsts[n] = run_of(quantity) or 0
      if firsts[n] == 0 then
        return "scattered"
      end
      for number = firsts[n], firsts[n] + quantity - 1 do
        want[#want + 1] = number
      end
    end
  end

  set_aside = function(n)
    local own = {}
    for _, number in ipairs(wants[n]) do
      if not mine[number] and not bit(away, number) then
        mine[number] = true
        touched[math.floor(number / 8) + 1] = true
        own[#own + 1] = number
        numbers[#numbers + 1] = number
      end
    end
    if #own > 0 then
      theirs[#theirs + 1] = requests[n]
      theirs[#theirs + 1] = cmsgpack.pack(own)
    end
  end
end

local words, opened, counted, sums, taken = {}, {}, {}, {}, 0
local deadline = ":" .. string.format("%.0f", now_ms + ttl_ms) .. ":"
local attempt, written -- nearly all of a batch are at the same one
local text = {} -- of small numbers: to write one down anew costs as much as all else of a request
for i = 1, #requests do
  local n = turns and turns[i] or i
  local at = (n - 1) * 5
  local quantity, buyer = asked[at + 3], names[n]
  local uses = sums[buyer] or tonumber(used[n]) or 0
  if standing[n] then
    words[n] = "repeated"
  elseif quantity > order then
    words[n] = "too_many"
  elseif limit > 0 and asked[at + 5] == 0 and uses + quantity > limit then
    words[n] = "limit"
  elseif waits[n] and asked[at + 5] == 0 and tonumber(waits[n]) > now_ms then
    words[n] = "cooling"
  elseif not turns and available < quantity then
    words[n] = "sold_out"
  else
    words[n] = turns and place(n, quantity, asked[at + 5] == 1, available < quantity) or "admitted"
  end
  if words[n] == "admitted" then
    available = available - quantity
    taken = taken + quantity
    if turns then
      set_aside(n)
    end
    opened[#opened + 1] = requests[n]
    if asked[at + 2] ~= attempt then
      attempt = asked[at + 2]
      written = string.format("%.0f", attempt) .. ":"
    end
    text[quantity] = text[quantity] or tostring(quantity)
    opened[#opened + 1] = written .. text[quantity] .. deadline .. buyer
    if limit > 0 then
      uses = uses + quantity
      text[uses] = text[uses] or tostring(uses)
      sums[buyer] = uses
      counted[#counted + 1] = buyer
      counted[#counted + 1] = text[uses]
    end
  end
end

if taken > 0 then
  redis.call("HINCRBY", drop, "open", taken)
  redis.call("HSET", intents, unpack(opened))
  if #counted > 0 then
    redis.call("HSET", buyers, unpack(counted))
  end
  for i = 1, #numbers do
    redis.call("SETBIT", picked, numbers[i], 1)
  end
  if #theirs > 0 then
    redis.call("HSET", picks, unpack(theirs))
  end
end
return { "open", available, figures, #opened < 2 * #requests and words or {}, young, named, firsts }
