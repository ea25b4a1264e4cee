--[[
  limit: add what one worker let through to what all let through, and say what is left.

  GCRA, as in engine/infra/rates.py, on this server's clock: what comes back is a distance, so no
  worker's clock matters. Nothing is refused here: a worker refuses by what it was told last, and
  tells afterwards what it let through. Told twice counts twice, so nobody repeats it.

  KEYS
    buckets...  one a subject: its theoretical arrival time in us; gone when its bucket is full
  ARGV
    uses : packed   step_us, burst, how many were let through, ... one triple a bucket

  RETURNS {ahead_us}, one a bucket: how far its arrival time is ahead of now
]]
local time = redis.call("TIME")
local now_us = time[1] * 1000000 + time[2]
local told = cmsgpack.unpack(uses)
local known = redis.call("MGET", unpack(buckets))
local ahead = {}
for n = 1, #buckets do
  local step_us, burst, count = told[n * 3 - 2], told[n * 3 - 1], told[n * 3]
  local before = math.max((tonumber(known[n]) or 0) - now_us, 0)
  -- Workers that did not know of each other may have let too much through. Nobody owes more than
  -- another full bucket for that.
  local owed = math.min(before + step_us * count, 2 * step_us * burst)
  redis.call("SET", buckets[n], string.format("%.0f", now_us + owed), "PX", math.ceil(owed / 1000))
  ahead[n] = math.floor(owed)
end
return ahead
