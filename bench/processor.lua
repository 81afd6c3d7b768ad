-- processor.lua - which kind of processor this is: measured tables and their targets are kept by
-- kind.

local M = {}

local function file_text(path)
  local file = io.open(path)
  if not file then return '' end
  local text = file:read '*a'
  file:close()
  return text
end

-- Flags of /proc/cpuinfo, the most capable first, and the name of the instruction set that each
-- stands for.
local sets = {{'avx512_bf16', 'avx512_bf16'}, {'avx512f', 'avx512'}, {'avx2', 'avx2'}}

local vendors = {AuthenticAMD = 'amd', GenuineIntel = 'intel'}

-- {kind, set, name, family, model} from the text of /proc/cpuinfo; this machine's without one.
-- kind: a file's name, such as amd-25-17-avx512_bf16; set: the instruction set, plain where it has
-- none of those that matter here.
function M.describe(cpuinfo)
  local text = cpuinfo or file_text '/proc/cpuinfo'
  local flags, set = ' ' .. (text:match 'flags%s*: ([^\n]+)' or '') .. ' ', 'plain'
  for i = #sets, 1, -1 do
    if flags:find(' ' .. sets[i][1] .. ' ', 1, true) then set = sets[i][2] end
  end
  local family, model = text:match 'cpu family%s*: (%d+)' or '0', text:match 'model%s*: (%d+)' or '0'
  return {
    kind = ('%s-%s-%s-%s'):format(vendors[text:match 'vendor_id%s*: (%w+)' or ''] or 'other', family, model, set),
    set = set,
    name = text:match 'model name%s*: ([^\n]+)' or 'processor unknown', family = family, model = model,
  }
end

-- GiB of memory, and the system's name.
function M.memory() return (tonumber(file_text '/proc/meminfo':match 'MemTotal:%s*(%d+)') or 0) / 2 ^ 20 end
function M.system() return file_text '/etc/os-release':match 'PRETTY_NAME="([^"]+)"' or 'system unknown' end

return M
