--[[
  inspect: what the bouncer believes of a drop. Changes nothing.

  KEYS
    drop     figures, terms and the sum of open intents (hash)
    intents  request -> attempt:quantity:deadline_ms:buyer (hash)
  ARGV
    deep : int  1: add up the intents one by one; 0: take the sum for granted

  RETURNS {epoch, version, terms_version, free, open, summed, count, oldest_ms, overdue, shut} or nothing if
          unknown; overdue: units of intents past their deadline;
          shut: 1 if it lets nobody through, whatever is left
]]
local m = redis.call("HMGET", drop, "epoch", "version", "terms_version", "free", "open", "shut", "starts_ms", "ends_ms")
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
return { tonumber(m[1]), tonumber(m[2]), tonumber(m[3]) or 0, tonumber(m[4]), tonumber(m[5]), summed, count, oldest,
  overdue, shut and 1 or 0 }
