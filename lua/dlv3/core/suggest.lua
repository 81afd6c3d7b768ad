-- suggest.lua - "did you mean": the names in a list that are a few slips of the keyboard away from
-- one.

local M = {}

-- Edit distance with neighbours swapped counting once (a restricted Damerau-Levenshtein).
function M.distance(a, b)
  local before, last = {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local row = {[0] = i}
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

-- How far apart two names are for a suggestion; nil: too far. What begins with the whole name, or
-- is its beginning, counts as near.
local function closeness(name, candidate)
  local a, b = name:lower():gsub('-', '_'), candidate:lower():gsub('-', '_')
  if a == b then return 0 end
  if #a < 2 or #b < 2 then return nil end -- one letter resembles everything
  local d = M.distance(a, b)
  if d <= math.max(1, math.floor(#a / 3)) then return d end
  if #a >= 3 and b:find(a, 1, true) == 1 or #b >= 3 and a:find(b, 1, true) == 1 then
    return 5 + math.abs(#a - #b) / 100
  end
end

-- Up to three names of list near to name, the nearest first.
function M.names(name, list)
  local found, seen = {}, {}
  for _, candidate in ipairs(list) do
    local c = type(candidate) == 'string' and not seen[candidate] and closeness(name, candidate)
    if c then
      found[#found + 1] = {candidate, c}
      seen[candidate] = true
    end
  end
  table.sort(found, function(x, y) return x[2] < y[2] or x[2] == y[2] and x[1] < y[1] end)
  local names = {}
  for i = 1, math.min(3, #found) do
    if found[i][2] <= found[1][2] + 1 then names[#names + 1] = found[i][1] end
  end
  return names
end

-- "did you mean 'a' or 'b'?", or nil.
function M.question(name, list)
  local names = M.names(name, list)
  if #names == 0 then return nil end
  for i, n in ipairs(names) do names[i] = "'" .. n .. "'" end
  local last = table.remove(names)
  return 'did you mean ' .. (#names > 0 and table.concat(names, ', ') .. ' or ' or '') .. last .. '?'
end

-- The question to append to a message: "; did you mean 'a'?", or ''.
function M.text(name, list)
  local question = M.question(name, list)
  return question and '; ' .. question or ''
end

return setmetatable(M, {__call = function(_, name, list) return M.question(name, list) end})
