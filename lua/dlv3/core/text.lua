-- text.lua - numbers, times and tables as text for people.

local M = {}

-- '%.4f' and the like with nan and inf as Python writes them, whatever their sign bit.
function M.number(format, v)
  if v ~= v then return 'nan' end
  return (format:format(v))
end

-- Seconds as Python's timedelta writes them: 0:05:12, 1 day, 2:03:04. Fractions are cut off.
function M.duration(seconds)
  if seconds ~= seconds or seconds < 0 or seconds == math.huge then return '?' end
  local s = math.floor(seconds)
  local days = math.floor(s / 86400)
  local clock = ('%d:%02d:%02d'):format(math.floor(s / 3600) % 24, math.floor(s / 60) % 60, s % 60)
  if days == 0 then return clock end
  return ('%d day%s, %s'):format(days, days == 1 and '' or 's', clock)
end

-- A list of numbers as Python prints a list of formatted strings: ['97.0', '93.9'].
function M.list(values, format)
  local parts = {}
  for i, v in ipairs(values) do parts[i] = "'" .. M.number(format or '%.1f', v) .. "'" end
  return '[' .. table.concat(parts, ', ') .. ']'
end

-- 1536 -> '1.5 KiB'
function M.bytes(n)
  local units, i = {'B', 'KiB', 'MiB', 'GiB', 'TiB'}, 1
  while n >= 1024 and i < #units do n, i = n / 1024, i + 1 end
  return (i == 1 and '%d %s' or '%.1f %s'):format(n, units[i])
end

-- 1234567 -> '1,234,567'
function M.thousands(n)
  local digits = ('%.0f'):format(n)
  local sign, rest = digits:match '^(%-?)(%d+)$'
  if not rest then return digits end
  return sign .. rest:reverse():gsub('(%d%d%d)', '%1,'):reverse():gsub('^,', '')
end

-- Columns a person sees: bytes that do not continue a UTF-8 character.
function M.width(s)
  local _, n = s:gsub('[^\128-\191]', '')
  return n
end

-- A word for a shell: as it is where that is safe, else in quotes.
function M.shell_word(s)
  if s:find '^[%w%./_+:=@,-]+$' then return s end
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

-- Rows of cells in aligned columns, one string with a newline after each row. align: 'lrr' (l where
-- it is short); gap: between columns, two spaces without it.
function M.columns(rows, align, gap)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, M.width(tostring(cell))) end
  end
  for r, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local text = tostring(cell)
      local space = (' '):rep(widths[i] - M.width(text))
      cells[i] = (align or ''):sub(i, i) == 'r' and space .. text or text .. space
    end
    lines[r] = table.concat(cells, gap or '  '):gsub('%s+$', '') .. '\n'
  end
  return table.concat(lines)
end

return M
