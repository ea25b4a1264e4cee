--[[
  recount: add up the open intents of a drop, and the named units that they picked, and believe
  that. Repairs what was lost or doubled with part of Redis's memory; where nothing is wrong it
  changes nothing.

  KEYS
    drop     figures, terms and the sum of open intents (hash)
    intents  request -> attempt:quantity:deadline_ms:buyer (hash)
    picked   named units of open intents (bitmap)
    picks    request -> packed numbers that its open intent set in `picked` (hash)
  ARGV
    life_s : int  how long an untouched drop is remembered

  RETURNS {units that were counted too many, units that were picked by nobody; negative: too few}

  INVARIANTS
    INV-6   open = sum of the intents, and `picked` is all that is in `picks`, afterwards
]]
local open = redis.call("HGET", drop, "open")
if not open then
  return { 0, 0 }
end
local summed = 0
for _, intent in ipairs(redis.call("HVALS", intents)) do
  summed = summed + string.match(intent, "^%d+:(%d+):")
end
redis.call("HSET", drop, "open", summed)
redis.call("EXPIRE", drop, life_s)
local strays, own, kept = redis.call("BITCOUNT", picked), redis.call("HGETALL", picks), {}
for n = 1, #own, 2 do
  local numbers = cmsgpack.unpack(own[n + 1])
  if redis.call("HEXISTS", intents, own[n]) == 1 then
    strays = strays - #numbers
    kept[#kept + 1] = numbers
  else
    redis.call("HDEL", picks, own[n])
  end
end
if strays ~= 0 then
  redis.call("DEL", picked)
  for _, numbers in ipairs(kept) do
    for _, number in ipairs(numbers) do
      redis.call("SETBIT", picked, number, 1)
    end
  end
  redis.call("EXPIRE", picked, life_s)
end
return { open - summed, strays }
