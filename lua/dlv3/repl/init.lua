-- init.lua - the prompt: reads, runs, prints, and goes on whatever happens.
--
-- Lines come from libedit on a terminal (runtime/host/repl.c), else from standard input, without
-- prompts. A line is an expression, a statement, the beginning of one, or ?name.

local F = require 'dlv3.core.ffi'
local module_path = require 'dlv3.core.module_path'
local inspect = require 'dlv3.repl.inspect'
local strict = require 'dlv3.core.strict'
local terminal = require 'dlv3.terminal'
local C = F.C

local on_terminal = C.dlv3_is_terminal(0) == 1
local history_most = 1000

-- -- History --------------------------------------------------------------------------------------

local function history_path()
  local state, home = os.getenv 'XDG_STATE_HOME', os.getenv 'HOME'
  if state and state ~= '' then
    if C.dlv3_make_dir(state .. '/dlv3') == C.DLV3_OK then return state .. '/dlv3/history' end
    return nil
  end
  return home and home .. '/.dlv3_history' or nil
end

local function load_history(file_path)
  local file = file_path and io.open(file_path)
  if not file then return end
  local lines = {}
  for line in file:lines() do lines[#lines + 1] = line end
  file:close()
  local first = math.max(1, #lines - history_most + 1)
  for i = first, #lines do terminal.remember(lines[i]) end
  if #lines <= 2 * history_most then return end
  file = io.open(file_path, 'w')
  if not file then return end
  file:write(table.concat(lines, '\n', first), '\n')
  file:close()
end

-- Each line at once, so that several sessions and a kill lose nothing.
local function remember(file_path, line)
  terminal.remember(line)
  local file = file_path and io.open(file_path, 'a')
  if not file then return end
  file:write(line, '\n')
  file:close()
end

-- -- Running --------------------------------------------------------------------------------------

-- A local would be gone with its line; without the word, lines of scripts can be pasted. Those that
-- do go are noted.
local function keep_locals(source)
  if source:find '^%s*local%s+function%s' or source:find '^%s*local%s+[%w_,%s]+=' then
    source = source:gsub('^%s*local%s+', '', 1)
  end
  for names in source:gmatch '%f[%w_]local%s+([%w_,%s]+)' do
    for name in names:gsub('^function%s+', ''):gmatch '[%a_][%w_]*' do strict.lost[name] = true end
  end
  return source
end

local one_line -- what was typed last is a single line: its number says nothing

local function without_line(message) return one_line and message:gsub('^line:%d+: ', '') or message end

local function pack(...) return {n = select('#', ...), ...} end

-- A function that returns its results packed; or nil, message; or nil when the source is the
-- beginning of something.
local function compile(source)
  one_line = not source:find '\n'
  source = source:gsub('^%s*=', 'return ')
  local body = source:match '^%s*return%s(.*)$' or source
  local expression, expected = loadstring('return ' .. body, '=line')
  if expression then
    -- as an argument, since a tail call would lose the line; the newline: it may end in a comment
    local head = 'local pack = ... return pack(' .. body
    return loadstring(head .. ')', '=line') or loadstring(head .. '\n)', '=line')
  end
  local before, last = source:match '^(.*;)(.*)$' -- x = 3; x
  local chunk, message = loadstring(keep_locals(source), '=line')
  if not chunk and before and loadstring('return ' .. last) then
    chunk = loadstring(keep_locals(before .. ' return ' .. last), '=line')
  end
  if chunk then return function() return pack(chunk()) end end
  if message:find "near '<eof>'$" or expected:find "near '<eof>'$" then return nil end
  return nil, message
end

-- The message with the user's own lines below it, if there are any but the one that was typed.
local function describe(e)
  if type(e) ~= 'string' then
    local mt = getmetatable(e)
    e = type(mt) == 'table' and mt.__tostring and tostring(e) or 'an error object: ' .. inspect.text(e)
  end
  -- places in code, no paths of files
  local plain = F.root == '' and e or e:gsub(F.root:gsub('%p', '%%%0') .. "([^%s']-%.lua:%d)", '%1')
  local lines = {require 'dlv3.repl.method_hint'(without_line(plain))}
  for level = 2, 40 do
    local info = debug.getinfo(level, 'Sl')
    if not info then break end
    if info.currentline > 0 and not info.source:find('lua/dlv3/', 1, true) and info.source ~= '=line'
        and #lines < 7 then
      lines[#lines + 1] = ('  %s:%d'):format(F.short(info.source), info.currentline)
    end
  end
  return table.concat(lines, '\n')
end

local function complain(message)
  io.stdout:flush()
  io.stderr:write('error: ', F.printable(message), '\n')
  io.stderr:flush()
end

local function print_results(results)
  if results.n == 0 then return end
  local parts = {}
  for i = 1, results.n do parts[i] = inspect.text(results[i]) end
  print(table.concat(parts, '\t'))
  rawset(_G, '_', results[1])
end

local function run(chunk)
  C.dlv3_signal_clear()
  terminal.interruptible(true)
  local ok, message = xpcall(function() print_results(chunk(pack)) end, describe)
  terminal.interruptible(false)
  C.dlv3_signal_clear()
  module_path.reset()
  if not ok then
    if on_terminal and message:find 'interrupted' then print() end -- after the ^C
    C.dlv3_set_grad_enabled(1)
    complain(message)
  end
end

-- -- The loop -------------------------------------------------------------------------------------

local function read(prompt)
  if on_terminal then return terminal.read(prompt) end
  io.stdout:flush()
  return io.read '*l'
end

local function help(line)
  local ok, message = pcall(function() return require 'dlv3.repl.help'.text(line:match '^%s*%?(.*)$') end)
  print(ok and message or 'no help: ' .. tostring(message))
end

local function loop(file_path)
  local pending
  while true do
    local line = read(pending and '>> ' or '> ')
    if line == nil then
      if pending then complain('the input ends in the middle of: ' .. pending) end
      return
    end
    if line == false then pending = nil -- Ctrl-C: the line is given up
    else
      if line:find '%S' then remember(file_path, line) end
      if not pending and (line == 'exit' or line == 'quit') and rawget(_G, line) == nil then return end
      if not pending and line:find '^%s*help%s*$' and rawget(_G, 'help') == nil then help '?'
      elseif not pending and line:find '^%s*%?' then help(line)
      elseif pending or line:find '%S' then
        local source = pending and pending .. '\n' .. line or line
        local chunk, message = compile(source)
        pending = nil
        if chunk then run(chunk)
        elseif message then complain((without_line(message)))
        else pending = source end
      end
    end
  end
end

-- Compiled code does not look at hooks, so a loop in it could not be stopped: at a prompt being
-- able to stop matters more than the speed of Lua, which only strings ops together.
jit.off()
jit.flush()
C.dlv3_signals_catch(1, nil)

local file_path = on_terminal and history_path() or nil
if on_terminal then
  terminal.start(function(line) return require 'dlv3.repl.complete'.complete(line) end)
  load_history(file_path)
  print(('dlv3 %s, %d threads. ? for help, Ctrl-D ends.'):format(F.string(C.dlv3_version()), C.dlv3_num_threads()))
end
loop(file_path)
terminal.finish()
