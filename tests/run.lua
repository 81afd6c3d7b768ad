-- run.lua - runs the tests: dlv3 tests/run.lua [options] [pattern ...]
--
-- Every tests/unit/test_*.lua and tests/end_to_end/test_*.lua whose name has one of the patterns
-- (all without one) returns a function that is called with t:
--   t.case(name, fn)      one test; it fails when fn raises, and when live bytes are not back to where they were
--   t.skip(reason)        inside a case: it is skipped, with the reason
--   t.ok t.eq t.close t.error   assertions
-- --jobs N runs N files at a time, each in a process of its own, and shows what a file printed when
-- it ends.
-- The last line is 'N passed, N failed, N skipped'; the exit status is 0 or 1.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'
local F = require 'dlv3.core.ffi'
local module_path = require 'dlv3.core.module_path'
local t = {passed = 0, failed = 0, skipped = 0}
local directory = arg[0]:match('^(.*)/[^/]*$') or '.'
t.directory = directory

local opt = require 'dlv3.cli.options'.parse({
  doc = 'Runs the tests: all files, or those whose names have one of the words.',
  {'verbose', false, 'a line a test, with its time', short = 'v'},
  {'jobs', 1, 'files at once, each in a process of its own', min = 1},
  {'file', nil, 'the one file of this name, without test_ and .lua', value = 'NAME'},
  {'own-kernels', false, 'of --file cuda only the samples of ops, once, by kernels of our own: what NVIDIA\'s '
                         .. 'checking tools have time for'},
  {'pattern', nil, 'words', positional = true},
}, arg)
local verbose = opt.verbose
t.own_kernels = opt.own_kernels

-- -- Assertions -----------------------------------------------------------------------------------

local function text(v)
  if type(v) == 'string' then return '"' .. v .. '"' end
  if type(v) ~= 'table' then return tostring(v) end
  local parts = {}
  for k, x in pairs(v) do parts[#parts + 1] = type(k) == 'number' and text(x) or tostring(k) .. ' = ' .. text(x) end
  return '{' .. table.concat(parts, ', ') .. '}'
end

local function same(a, b)
  if type(a) ~= 'table' or type(b) ~= 'table' then return a == b or (a ~= a and b ~= b) end
  for k, v in pairs(a) do if not same(v, b[k]) then return false end end
  for k in pairs(b) do if a[k] == nil then return false end end
  return true
end

function t.ok(condition, message) if not condition then error(message or 'expected a true value', 2) end end

-- Equal: numbers, strings, nested tables, tensors (to the last bit, of the same sizes and dtype).
function t.eq(a, b, message)
  local equal
  if F.is_tensor(a) and F.is_tensor(b) then
    equal = a.dtype == b.dtype and same(a:size(), b:size()) and a:tobytes() == b:tobytes()
  else
    equal = same(a, b)
  end
  if not equal then error((message and message .. ': ' or '') .. 'expected ' .. text(b) .. ', got ' .. text(a), 2) end
end

-- The largest |a - b| - (atol + rtol |b|) over all elements; a and b may be tensors, tables or
-- numbers.
local function excess(a, b, rtol, atol)
  a, b = F.is_tensor(a) and a or dlv3.tensor(a, {dtype = 'f64'}),
      F.is_tensor(b) and b or dlv3.tensor(b, {dtype = 'f64'})
  if not same(a:size(), b:size()) then return math.huge, 'sizes ' .. text(a:size()) .. ' and ' .. text(b:size()) end
  if a:numel() == 0 then return -1 end
  a, b = a:to('cpu', 'f64'), b:to('cpu', 'f64')
  local worst, where = -math.huge, ''
  local x, y = runtime.doubles(a), runtime.doubles(b)
  for i = 0, a:numel() - 1 do
    local e = math.abs(x[i] - y[i]) - (atol + rtol * math.abs(y[i]))
    if x[i] == y[i] or (x[i] ~= x[i] and y[i] ~= y[i]) then e = -1 elseif e ~= e then e = math.huge end
    if e > worst then worst, where = e, ('element %d: %.9g, expected %.9g'):format(i, x[i], y[i]) end
  end
  return worst, where
end

function t.close(a, b, rtol, atol, message)
  rtol, atol = rtol or 1e-5, atol or 1e-8
  local worst, where = excess(a, b, rtol, atol)
  if worst > 0 then
    error(('%snot close (rtol %g, atol %g): %s'):format(message and message .. ': ' or '', rtol, atol, where), 2)
  end
end

-- fn must raise an error whose text has the Lua pattern. Returns the text.
function t.error(fn, pattern)
  local depth = module_path.depth()
  local ok, message = pcall(fn)
  module_path.reset(depth)
  if ok then error('expected an error with "' .. pattern .. '"', 2) end
  if not tostring(message):find(pattern) then
    error('expected an error with "' .. pattern .. '", got: ' .. tostring(message), 2)
  end
  return tostring(message)
end

-- -- Cases ----------------------------------------------------------------------------------------

local skip_mark = {}
function t.skip(reason) error({skip_mark, reason}, 0) end

local function live()
  require 'dlv3.core.call'.default_rng(0) -- it comes back to the cpu
  collectgarbage()
  require 'dlv3.core.autograd'.forget_freed() -- what Lua functions keep for a backward that did not come
  jit.flush() -- a compiled trace may hold a tensor as a constant
  collectgarbage()
  collectgarbage()
  return runtime.live_bytes()
end

-- Runs one test; leaks = false for those that keep something on purpose (a cache filled on first
-- use).
function t.case(name, fn, options)
  local label = t.file .. ': ' .. name
  dlv3.manual_seed(1)
  local before, begin = live(), dlv3.now()
  local ok, message = xpcall(fn, function(e)
    if type(e) == 'table' then return e end
    return tostring(e) .. (verbose and debug.traceback('', 2) or '')
  end)
  module_path.reset()
  runtime.reset()
  if ok and not (options and options.leaks) then
    fn = nil -- luacheck: ignore (what the test holds is let go)
    local after = live()
    if after ~= before then ok, message = false, ('%d bytes are still live'):format(after - before) end
  end
  if ok then
    t.passed = t.passed + 1
    if verbose then io.write(('ok    %s (%.2f s)\n'):format(label, dlv3.now() - begin)) end
  elseif type(message) == 'table' and message[1] == skip_mark then
    t.skipped = t.skipped + 1
    io.write('skip  ', label, ': ', message[2], '\n')
  else
    t.failed = t.failed + 1
    io.write('FAIL  ', label, '\n      ', (tostring(message):gsub('\n', '\n      ')), '\n')
  end
  io.flush()
end

-- -- Helpers for tests ----------------------------------------------------------------------------

-- The folder of test images that is not part of the project, or nil.
function t.data()
  for _, candidate in ipairs {os.getenv 'DLV3_TEST_DATA' or '', directory .. '/../../shared/data'} do
    if candidate ~= '' and system.is_directory(candidate) then return candidate end
  end
end

-- Runs a shell command; returns its output (stdout and stderr) and its exit status.
function t.run(command)
  -- not { }: dash 0.5.12 loses redirections in it
  local pipe = io.popen('( ' .. command .. '\n) 2>&1; echo "status $?"')
  local output = pipe:read('*a')
  pipe:close()
  local body, status = output:match('^(.*)status (%d+)\n$')
  return body, tonumber(status)
end

-- A new empty folder, removed at the end of the run.
local folders = {}
function t.folder()
  local name = t.run('mktemp -d'):match('^(%S+)')
  folders[#folders + 1] = name
  return name
end

-- The oracle: Debian's python with the modules, or nil and the reason.
function t.python(...)
  for _, module in ipairs {...} do
    local _, status = t.run('/usr/bin/python3 -c "import ' .. module .. '"')
    if status ~= 0 then
      return nil, '/usr/bin/python3 has no ' .. module .. ' (package python3-' .. module:lower() .. ')'
    end
  end
  return '/usr/bin/python3'
end

-- -- Main -----------------------------------------------------------------------------------------

local function wanted(name)
  if opt.file then return name == opt.file end
  if #opt.pattern == 0 then return true end
  for _, p in ipairs(opt.pattern) do if name:find(p, 1, true) then return true end end
end

local folder_of = {} -- of a file's name: 'unit' or 'end_to_end'

local function run_file(name)
  t.file = name
  local ok, message = pcall(function() dofile(('%s/%s/test_%s.lua'):format(directory, folder_of[name], name))(t) end)
  if not ok then
    t.failed = t.failed + 1
    io.write('FAIL  ', name, ': ', tostring(message), '\n')
  end
end

-- What a process printed for one file: shown but for its last line, which is counted. Without that
-- line it crashed.
local function take(name, output)
  local shown, passed, failed, skipped = output:match('^(.-)(%d+) passed, (%d+) failed, (%d+) skipped%s*$')
  io.write(shown or output)
  if shown then t.passed, t.failed, t.skipped = t.passed + passed, t.failed + failed, t.skipped + skipped
  else
    t.failed = t.failed + 1
    io.write('FAIL  ', name, ': ended before its last line\n')
  end
  io.flush()
end

-- The longest files come first, so that none of them is left alone at the end.
local function run_at_once(names)
  local long = {parity = 6, cuda = 5, cuda_graph = 4, ops = 3, compile = 2, scripts = 1}
  table.sort(names, function(a, b)
    local i, j = long[a] or 0, long[b] or 0
    if i ~= j then return i > j end
    return a < b
  end)
  local folder = t.folder()
  local command = ("'%s' '%s' %s --file {} > '%s/{}' 2>&1; echo {}"):format(
      require 'dlv3.host'.executable, arg[0], verbose and '-v' or '', folder)
  local pipe = io.popen(('printf "%%s\\n" %s | xargs -P %d -I {} sh -c "%s"'):format(
      table.concat(names, ' '), opt.jobs, command))
  for name in pipe:lines() do
    local file = assert(io.open(folder .. '/' .. name))
    take(name, file:read('*a'))
    file:close()
  end
  pipe:close()
end

local names = {}
for _, folder in ipairs {'unit', 'end_to_end'} do
  for name in t.run(('ls "%s/%s"'):format(directory, folder)):gmatch('[^\n]+') do
    local stem = name:match('^test_(.*)%.lua$')
    if stem and wanted(stem) then
      names[#names + 1] = stem
      folder_of[stem] = folder
    end
  end
end
if opt.jobs > 1 then run_at_once(names) else for _, name in ipairs(names) do run_file(name) end end
for _, name in ipairs(folders) do os.execute('rm -rf "' .. name .. '"') end
if t.passed + t.failed + t.skipped == 0 then
  io.write('no test matches ', table.concat(opt.pattern, ' '), '\n')
  t.failed = 1
end
print(('%d passed, %d failed, %d skipped'):format(t.passed, t.failed, t.skipped))
os.exit(t.failed == 0 and 0 or 1)
