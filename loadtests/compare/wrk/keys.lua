-- One key after another. Arguments: path prefix, number of keys (0: never the same one again).
local before, after, keys, count = "", "", 0, 0
function init(args)
  keys = tonumber(args[2])
  before = "GET " .. args[1]
  after = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n\r\n"
end
function request()
  count = count + 1
  if keys > 0 and count > keys then count = 1 end
  return before .. count .. after
end
