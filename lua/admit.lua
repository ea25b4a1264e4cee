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
  ARGV
    epoch : int      the epoch the worker believes in
    ttl_ms : int     how long an intent may stay open before its worker is taken for dead
    batch : packed   request, attempt, quantity, buyer, trusted (1: limit and cool-down were checked), ...
                     empty: only tell what is available

  RETURNS {word, available, {figures}, {words}, young}
    unknown   nothing is known of this drop: load it, never say sold out
    fenced    the worker's epoch is not the bouncer's
    shut      preparing, paused, not_started or ended: see words[1]
    open      words, one a request: admitted, repeated, too_many, limit, cooling or sold_out
    no words mean that all of the batch are admitted
    young is 1 while requests of before this drop was (re)filled may be on their way to Postgres

  INVARIANTS
    INV-6   available = free - sum of open intents, and an admission never takes it below zero
    INV-4   a request has at most one open intent
]]
local m = redis.call("HMGET", drop, "epoch", "version", "free", "held", "sold", "withdrawn", "total",
  "open", "starts_ms", "ends_ms", "shut", "max_per_buyer", "max_per_order", "born_ms", "promised",
  "cools")
if not m[1] or not m[11] then
  return { "unknown", 0, {}, {}, 0 }
end
local free, open = tonumber(m[3]), tonumber(m[8])
local available = free - open
-- More units may have been promised than are on the shelf: then "sold out" is not for ever.
local total = math.max(tonumber(m[7]), tonumber(m[15]) or 0)
local figures = { tonumber(m[1]), tonumber(m[2]), free, tonumber(m[4]), tonumber(m[5]), tonumber(m[6]), total }
if tonumber(m[1]) ~= epoch then
  return { "fenced", available, figures, {}, 0 }
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
  return { "shut", available, figures, { shut }, young }
end

local asked = cmsgpack.unpack(batch)
local requests, names = {}, {}
for i = 1, #asked, 5 do
  requests[#requests + 1] = asked[i]
  names[#names + 1] = asked[i + 3]
end
if #requests == 0 then
  return { "open", available, figures, {}, young }
end
local limit, order = tonumber(m[12]), tonumber(m[13])
local standing = redis.call("HMGET", intents, unpack(requests))
local used = limit > 0 and redis.call("HMGET", buyers, unpack(names)) or {}

local waits = m[16] == "1" and redis.call("HMGET", cooling, unpack(names)) or {}

local words, opened, counted, sums, taken = {}, {}, {}, {}, 0
local deadline = ":" .. string.format("%.0f", now_ms + ttl_ms) .. ":"
local attempt, written -- nearly all of a batch are at the same one
local text = {} -- of small numbers: to write one down anew costs as much as all else of a request
for n = 1, #requests do
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
  elseif available < quantity then
    words[n] = "sold_out"
  else
    words[n] = "admitted"
    available = available - quantity
    taken = taken + quantity
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
end
return { "open", available, figures, #opened < 2 * #requests and words or {}, young }
