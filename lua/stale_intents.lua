--[[
  stale_intents: the intents whose worker must be dead, for the reaper. Changes nothing.

  KEYS
    intents  request -> attempt:quantity:deadline_ms:buyer (hash)
  ARGV
    count : int  at most so many

  RETURNS {request, attempt, quantity, buyer, ...}
]]
local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local found, cursor = {}, "0"
repeat
  local page = redis.call("HSCAN", intents, cursor, "COUNT", 1000)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local attempt, quantity, deadline_ms, buyer = string.match(page[2][i + 1], "^(%d+):(%d+):(%d+):(.*)$")
    if tonumber(deadline_ms) <= now_ms then
      found[#found + 1] = { page[2][i], attempt, quantity, buyer }
    end
  end
until cursor == "0" or #found >= count
return found
