--[[
  seat: take the whole bitmap of a drop's free named units, as Postgres had it at one version.

  Changes of later versions that arrived before it are applied at once. What open intents picked
  stays picked: that is another bitmap.

  KEYS
    drop   figures, terms and the sum of open intents (hash)
    seats  named units that were free at seats_version, a suspicion (bitmap)
    news   version -> packed changes that wait for their predecessors (hash)
  ARGV
    epoch : int    of the bitmap
    version : int  of the bitmap
    bitmap : text  its bytes; the first bit is unit 0, which there never is
    life_s : int   how long an untouched drop is remembered

  RETURNS {word, seats_version}
    newer   the bitmap was taken
    known   there is one of a later version
    absent  nothing is known of this drop, or of another epoch, or its units have no names

  INVARIANTS
    INV-9   `seats` is what Postgres had at seats_version, or is missing
]]
local known = redis.call("HMGET", drop, "epoch", "named", "seats_version")
if tonumber(known[1]) ~= epoch or known[2] ~= "1" then
  return { "absent", 0 }
end
local at = tonumber(known[3])
if at and at > version and redis.call("EXISTS", seats) == 1 then
  return { "known", at }
end

redis.call("SET", seats, bitmap, "EX", life_s)
local waiting = {}
for _, later in ipairs(redis.call("HKEYS", news)) do
  if tonumber(later) <= version then
    redis.call("HDEL", news, later)
  else
    waiting[tonumber(later)] = later
  end
end
at = version
while waiting[at + 1] do
  at = at + 1
  for free, numbers in ipairs(cmsgpack.unpack(redis.call("HGET", news, waiting[at]))) do
    for _, number in ipairs(numbers) do
      redis.call("SETBIT", seats, number, free - 1)
    end
  end
  redis.call("HDEL", news, waiting[at])
end
redis.call("HSET", drop, "seats_version", string.format("%.0f", at))
redis.call("EXPIRE", drop, life_s)
return { "newer", at }
