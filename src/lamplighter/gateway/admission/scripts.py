"""The Lua that runs inside Redis. Time is Redis's own, so that gateways whose clocks differ agree.

Of each subject there are `state` (a hash: the minute's buckets `r` and `t` with the time `at`, and the sums `pt` and `pm` of what is
reserved), `leases` (a sorted set by expiry; a member is `id|tokens|money`), and one number for each day and month that is limited.
`rules.Rules.judge` is the same decision in Python.
"""

_COMMON = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local q = cjson.decode(ARGV[1])

local function whole(x) return string.format('%.0f', x) end

local function forget(state, member)
  local tokens, money = string.match(member, '|(%d+)|(%d+)$')
  if tokens ~= '0' then redis.call('HINCRBY', state, 'pt', '-' .. tokens) end
  if money ~= '0' then redis.call('HINCRBY', state, 'pm', '-' .. money) end
end

local function sweep(state, leases)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. string.format('%.6f', now))) do
    redis.call('ZREM', leases, member)
    forget(state, member)
  end
end

local function reserve(state, leases, member, tokens, money, lease, ttl)
  if redis.call('ZADD', leases, string.format('%.6f', now + lease), member) == 1 then
    redis.call('HINCRBY', state, 'pt', whole(tokens))
    redis.call('HINCRBY', state, 'pm', whole(money))
  end
  redis.call('EXPIRE', state, ttl)
  redis.call('EXPIRE', leases, ttl)
end

local function buckets(state, rpm, tpm)
  local v = redis.call('HMGET', state, 'r', 't', 'at')
  local passed = math.max(0, now - (tonumber(v[3]) or now)) / 60
  local r, t = 0, 0
  if rpm > 0 then r = math.max(0, (tonumber(v[1]) or 0) - passed * rpm) end
  if tpm > 0 then t = math.max(0, (tonumber(v[2]) or 0) - passed * tpm) end
  return r, t
end

local function fill(state, r, t)
  redis.call('HSET', state, 'r', string.format('%.9f', r), 't', string.format('%.9f', t), 'at', string.format('%.6f', now))
end
"""

ADMIT = (
    _COMMON
    + """
local hair = 1e-6
local answer, verdict = {}, 'ok'
local levels = {}
for i, s in ipairs(q.subjects) do
  local state, leases = KEYS[s.k], KEYS[s.k + 1]
  sweep(state, leases)
  local r, t = buckets(state, s.rpm, s.tpm)
  local held = redis.call('HMGET', state, 'pt', 'pm')
  local reserved = {tokens = tonumber(held[1]) or 0, money = tonumber(held[2]) or 0}
  local parallel = redis.call('ZCARD', leases)
  if s.rpm > 0 and r + 1 - s.rpm > hair then verdict = 'no' end
  if s.tpm > 0 and t + s.need - s.tpm > hair then verdict = 'no' end
  if s.parallel > 0 and parallel >= s.parallel then verdict = 'no' end
  local row = {string.format('%.9f', r), string.format('%.9f', t), whole(parallel), whole(reserved.tokens), whole(reserved.money)}
  for _, w in ipairs(s.windows) do
    local used = redis.call('GET', KEYS[w.k])
    if not used then return {'seed'} end
    row[#row + 1] = used
    used = tonumber(used)
    local cost, taken = s[w.unit], reserved[w.unit]
    if cost > 0 and (used >= w.limit or (taken > 0 and used + taken + cost > w.limit)) then verdict = 'no' end
  end
  levels[i] = {r, t}
  answer[i] = row
end
if verdict == 'ok' then
  for i, s in ipairs(q.subjects) do
    fill(KEYS[s.k], levels[i][1] + 1, levels[i][2] + s.need)
    reserve(KEYS[s.k], KEYS[s.k + 1], s.member, s.tokens, s.money, q.lease, q.ttl)
  end
end
return {verdict, unpack(answer)}
"""
)

SETTLE = (
    _COMMON
    + """
for _, item in ipairs(q.items) do
  for _, s in ipairs(item.subjects) do
    local state, leases = KEYS[s.k], KEYS[s.k + 1]
    if redis.call('ZREM', leases, s.member) == 1 then
      forget(state, s.member)
      if s.tpm > 0 then
        local r, t = buckets(state, s.rpm, s.tpm)
        fill(state, r, math.max(0, t + item.tokens - s.need))
      end
    end
    for _, w in ipairs(s.windows) do
      if redis.call('EXISTS', KEYS[w.k]) == 1 then redis.call('INCRBY', KEYS[w.k], whole(item[w.unit])) end
    end
  end
end
return 1
"""
)

RENEW = (
    _COMMON
    + """
for _, item in ipairs(q.items) do
  sweep(KEYS[item.k], KEYS[item.k + 1])
  reserve(KEYS[item.k], KEYS[item.k + 1], item.member, item.tokens, item.money, q.lease, q.ttl)
end
return 1
"""
)

RAISE = """
local q = cjson.decode(ARGV[1])
for i, v in ipairs(q.values) do
  local known = redis.call('GET', KEYS[i])
  local value = string.format('%.0f', v[1])
  if known then
    if tonumber(known) < v[1] then redis.call('SET', KEYS[i], value, 'KEEPTTL') end
  elseif not q.only then
    redis.call('SET', KEYS[i], value, 'EX', v[2])
  end
end
return 1
"""
