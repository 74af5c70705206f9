-- Requests of wrk for the load test of `kdmt serve`: sentences in random order, and the answers checked.
-- Arguments: a file with one request body per line, and the API key. The last line of the output is JSON.
local threads = {}

function setup(thread)
  thread:set("seed", #threads + 1)
  table.insert(threads, thread)
end

function init(args)
  math.randomseed(seed)
  bodies, wrong = {}, 0
  for line in io.lines(args[1]) do table.insert(bodies, line) end
  headers = {["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. args[2]}
end

function request()
  return wrk.format("POST", "/translate", headers, bodies[math.random(#bodies)])
end

function response(status, _, body)
  if status ~= 200 or not body:find('"translatedText":"[^"]') then wrong = wrong + 1 end
end

function done(summary, latency)
  local refused = 0
  for _, thread in ipairs(threads) do refused = refused + thread:get("wrong") end
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "p50": %f, "p95": %f, "p99": %f, ' ..
    '"errors": {"answer": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3, refused, errors.connect, errors.read, errors.write, errors.timeout))
end
