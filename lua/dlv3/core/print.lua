-- print.lua - tensors as text. Only what is shown is read and formatted, however large the tensor
-- is.

local F = require 'dlv3.core.ffi'
local C = F.C

local M = {}

local whole_up_to, edge = 1000, 3 -- more elements than that: three at each end of every axis

local function trailer(t)
  local sizes = {}
  for i = 1, C.dlv3_tensor_ndim(t.p) do sizes[i] = tostring(tonumber(C.dlv3_tensor_size(t.p, i - 1))) end
  return ('[%s %s %s]'):format(t.dtype, t.device, sizes[1] and table.concat(sizes, 'x') or 'scalar')
end

-- The positions shown along an axis of n: all, or both ends with false for the gap.
local function positions(n, summarise)
  local list = {}
  for i = 0, n - 1 do
    if not summarise or n <= 2 * edge or i < edge or i >= n - edge then list[#list + 1] = i
    elseif i == edge then list[#list + 1] = false end
  end
  return list
end

-- The element at a position, as a number; of i64 what a number does not hold, as its digits.
local function element(t, at, value)
  F.check(C.dlv3_tensor_at(value, t.p, at))
  local v = value[0]
  if t.dtype ~= 'i64' or math.abs(v) < 2 ^ 53 then return v end
  return tostring(F.cast('int64_t *', t:detach():reshape(-1):narrow(1, at + 1, 1):tobytes())[0]):match '^[^L]*'
end

-- Nested tables of the shown numbers, '...' for gaps, and all the numbers in a list.
local function collect(t, sizes, summarise)
  local numbers, value = {}, F.new('double[1]')
  local function walk(depth, at)
    if depth > #sizes then
      numbers[#numbers + 1] = element(t, at, value)
      return numbers[#numbers]
    end
    local rows = {}
    for i, p in ipairs(positions(sizes[depth], summarise)) do
      rows[i] = p and walk(depth + 1, at * sizes[depth] + p) or '...'
    end
    return rows
  end
  return walk(1, 0), numbers
end

-- One format for all numbers: integers, four decimals, or exponents where the range asks for them.
local function format_of(numbers, dtype)
  if dtype == 'bool' then return function(v) return v ~= 0 and 'true' or 'false' end end
  if not dtype:find '^[bf]' then return function(v) return type(v) == 'string' and v or ('%.0f'):format(v) end end
  local largest, smallest, whole = 0, math.huge, true
  for _, v in ipairs(numbers) do
    local a = math.abs(v)
    if a < math.huge then
      if a > largest then largest = a end
      if a > 0 and a < smallest then smallest = a end
      if v ~= math.floor(v) then whole = false end
    end
  end
  if whole and largest < 1e9 then return function(v) return ('%.0f.'):format(v) end end
  if largest >= 1e5 or smallest < 1e-4 or largest / smallest > 1e6 then
    return function(v) return ('%.4e'):format(v) end
  end
  return function(v) return ('%.4f'):format(v) end
end

local function nest(rows, depth, ndim, format, width, indent)
  if depth > ndim then
    local text = format(rows)
    return (' '):rep(width - #text) .. text
  end
  local parts = {}
  for i, row in ipairs(rows) do
    parts[i] = row == '...' and '...' or nest(row, depth + 1, ndim, format, width, indent .. ' ')
  end
  local gap = depth == ndim and ', ' or ',' .. ('\n'):rep(ndim - depth) .. indent .. ' '
  return '[' .. table.concat(parts, gap) .. ']'
end

-- What print(t) shows: the elements, three at each end of long axes, and "[dtype device sizes]".
function M.tensor(t)
  if C.dlv3_tensor_released(t.p) == 1 then return 'released ' .. trailer(t) end
  local sizes, n = t:size(), t:numel()
  if n == 0 then return '[] ' .. trailer(t) end
  local rows, numbers = collect(t, sizes, n > whole_up_to)
  local format, width = format_of(numbers, t.dtype), 0
  for _, v in ipairs(numbers) do width = math.max(width, #format(v)) end
  if #sizes == 0 then return format(rows) .. ' ' .. trailer(t) end
  return nest(rows, 1, #sizes, format, width, '') .. (#sizes > 1 and '\n' or ' ') .. trailer(t)
end

return M
