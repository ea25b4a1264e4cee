--[[
  ring_due: name the bells of a drop that should have rung. Touching an expired key makes the
  server expire it now and tell its listeners; left alone, a key among many others that are not
  due may wait for minutes.

  KEYS
    dues  bell -> when it rings, in ms (zset)
  ARGV
    count : int  at most so many

  RETURNS {bell, ...}
]]
local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call("ZRANGEBYSCORE", dues, "-inf", now_ms, "LIMIT", 0, count)
if #due > 0 then
  redis.call("ZREM", dues, unpack(due))
end
return due
