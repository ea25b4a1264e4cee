--[[
  inspect: what the bouncer believes of a drop. Changes nothing.

  KEYS
    drop     figures, terms and the sum of open intents (hash)
    intents  request -> attempt:quantity:deadline_ms:buyer (hash)
    seats    named units that were free at seats_version, a suspicion (bitmap)
    picked   named units of open intents (bitmap)
    picks    request -> packed numbers that its open intent set in `picked` (hash)
  ARGV
    deep : int  1: add up the intents one by one; 0: take the sum for granted

  RETURNS {epoch, version, terms_version, free, open, summed, count, oldest_ms, overdue, shut, named,
          seats_version, strays} or nothing if unknown; overdue: units of intents past their deadline;
          shut: 1 if it lets nobody through, whatever is left; named: 1 if buyers pick units;
          seats_version: -1: it has no bitmap of them; strays: picked units of no intent (if deep)
]]
local m = redis.call("HMGET", drop, "epoch", "version", "terms_version", "free", "open", "shut", "starts_ms", "ends_ms",
  "named", "seats_version")
if not m[1] then
  return {}
end
local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local starts_ms = tonumber(m[7]) or 0
local shut = (m[6] or "") ~= "" or now_ms < starts_ms
  or (m[8] or "") ~= "" and math.max(now_ms, starts_ms) >= tonumber(m[8])
local summed, count, oldest, overdue = 0, 0, 0, 0
if deep == 1 then
  for _, intent in ipairs(redis.call("HVALS", intents)) do
    local quantity, deadline_ms = string.match(intent, "^%d+:(%d+):(%d+):")
    summed, count = summed + quantity, count + 1
    oldest = math.max(oldest, now_ms - deadline_ms)
    overdue = overdue + (now_ms >= tonumber(deadline_ms) and quantity or 0)
  end
end
local seats_version, strays = tonumber(m[10]) or -1, 0
if m[9] == "1" then
  seats_version = redis.call("EXISTS", seats) == 1 and seats_version or -1
  strays = deep == 1 and redis.call("BITCOUNT", picked) or 0
  for _, numbers in ipairs(deep == 1 and redis.call("HVALS", picks) or {}) do
    strays = strays - #cmsgpack.unpack(numbers)
  end
end
return { tonumber(m[1]), tonumber(m[2]), tonumber(m[3]) or 0, tonumber(m[4]), tonumber(m[5]), summed, count, oldest,
  overdue, shut and 1 or 0, m[9] == "1" and 1 or 0, seats_version, strays }
