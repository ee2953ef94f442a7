-- One key after another. Arguments: path prefix, number of keys (0: never the same one again), how many were asked for
-- before (0 if it is not said): a run that is too short to come round goes on where the last one stopped.
local before, after, keys, count = "", "", 0, 0
function init(args)
  keys = tonumber(args[2])
  if keys > 0 then count = tonumber(args[3] or 0) % keys end
  before = "GET " .. args[1]
  after = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n\r\n"
end
function request()
  count = count + 1
  if keys > 0 and count > keys then count = 1 end
  return before .. count .. after
end
