--[[
  recount: add up the open intents of a drop and believe that sum. Repairs a sum that was lost or
  doubled with part of Redis's memory; where nothing is wrong it changes nothing.

  KEYS
    drop     figures, terms and the sum of open intents (hash)
    intents  request -> attempt:quantity:deadline_ms:buyer (hash)
  ARGV
    life_s : int  how long an untouched drop is remembered

  RETURNS {units that were counted too many; negative: too few}

  INVARIANTS
    INV-6   open = sum of the intents, afterwards
]]
local open = redis.call("HGET", drop, "open")
if not open then
  return { 0 }
end
local summed = 0
for _, intent in ipairs(redis.call("HVALS", intents)) do
  summed = summed + string.match(intent, "^%d+:(%d+):")
end
redis.call("HSET", drop, "open", summed)
redis.call("EXPIRE", drop, life_s)
return { open - summed }
