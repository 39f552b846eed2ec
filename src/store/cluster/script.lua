-- Applies commands of one bucket in one step.
-- KEYS: the bucket's number, then the list of each command. ARGV: the most values that a key may have (0: any
-- number), then each command's letter and arguments.
-- Gives for a write its number, or 0 if the key has too many values; for a Get {number, values}.
-- An error UNAPPLIED says that nothing was applied.
local max, at = tonumber(ARGV[1]), 2
local base = string.sub(KEYS[1], 1, -5)
local channel, name_at = base .. '#ch', #base + 2
local replies = {}

-- A write that is applied has to get a number. (INCR first would be refused without memory, and so Delete.)
local number = redis.pcall('GET', KEYS[1])
if type(number) == 'table' then return redis.error_reply('UNAPPLIED ' .. number.err) end
if number and not (#number < 16 and string.match(number, '^%d+$')) then
  return redis.error_reply('UNAPPLIED ' .. KEYS[1] .. ' holds no number')
end
number = tonumber(number or 0)

local function push(key, value)
  if max > 0 then
    local values = redis.pcall('LLEN', key)
    if type(values) == 'table' then return values end
    if values >= max then return 0 end
  end
  return redis.pcall('RPUSH', key, value)
end

for i = 2, #KEYS do
  local key, letter, first, second = KEYS[i], ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local name, reply, line = string.sub(KEYS[i], name_at), nil, nil
  if letter == 'G' then
    reply = redis.pcall('LRANGE', key, 0, -1)
    if not reply.err then
      reply = {number, reply}
    end
    at = at + 1
  elseif letter == 'P' then
    reply, line = push(key, first), 'Put:' .. name .. ':' .. first
    at = at + 2
  elseif letter == 'S' then
    redis.call('DEL', key)
    reply = redis.pcall('RPUSH', key, first)
    line = 'Set:' .. name .. ':' .. first
    at = at + 2
  elseif letter == 'D' then
    redis.call('DEL', key)
    line = 'Delete:' .. name
    at = at + 1
  elseif letter == 'U' then
    local index = redis.pcall('LPOS', key, first)
    if type(index) == 'number' then
      reply = redis.pcall('LSET', key, index, second)
    elseif index then
      reply = index
    else
      reply = push(key, second)
    end
    line = 'Update:' .. name .. ':' .. first .. ':' .. second
    at = at + 3
  elseif letter == 'R' then
    reply = redis.pcall('LREM', key, 1, first)
    -- That there is none is no refusal.
    if reply == 0 then reply = nil end
    line = 'Remove:' .. name .. ':' .. first
    at = at + 2
  end
  if line and reply ~= 0 and not (type(reply) == 'table' and reply.err) then
    number = redis.call('INCR', KEYS[1])
    redis.call('SPUBLISH', channel, string.format('%d', number) .. ' ' .. line)
    reply = number
  end
  replies[#replies + 1] = reply
end
return replies
