-- 1,000 keys (or args[2]), and a request id and a traceparent that no other request has, as a load balancer sends them.
-- Arguments: path prefix, keys. Heads are made beforehand but for the ids: two concatenations are left per request.
local heads, keys, count, seed = {}, 0, 0, os.time()
function init(args)
  keys = tonumber(args[2] or 1000)
  for i = 1, keys do
    heads[i] = "GET " .. args[1] .. i .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nX-Request-ID: "
  end
end
function request()
  count = count + 1
  local id = string.format("%016x%016x", seed, count)
  return heads[count % keys + 1] .. id .. "\r\ntraceparent: 00-" .. id .. "-00f067aa0ba902b7-01\r\n\r\n"
end
