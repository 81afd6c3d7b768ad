-- test_host.lua - the program itself: options, standard input, exit codes, error texts, the REPL
-- through a pipe.

local files = require 'dlv3.io.files'

return function(t)
  local binary = require('dlv3.host').executable
  local function quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end
  local function dlv3(arguments, input)
    return t.run((input and 'printf %s ' .. quote(input) .. ' | ' or '') .. binary .. ' ' .. arguments
                 .. (input and '' or ' </dev/null'))
  end
  local function script(text)
    local path = t.folder() .. '/script.lua'
    local file = assert(io.open(path, 'w'))
    file:write(text)
    file:close()
    return path
  end
  local function expect(arguments, input, output, status)
    local got, code = dlv3(arguments, input)
    t.eq(got, output, arguments)
    t.eq(code, status or 0, arguments)
  end

  t.case('-e, several, with the modules at hand', function()
    expect("-e 'x = 3' -e 'print(x + 1)'", nil, '4\n')
    expect("-e 'print(dlv3.devices()[1])'", nil, 'cpu\n')
    expect("-e 'print(arg[0] ~= nil)'", nil, 'true\n')
  end)

  t.case('scripts, their arguments and standard input', function()
    local path = script 'print(#arg, arg[1], arg[2], ...)'
    expect(path .. " a '-e'", nil, '2\ta\t-e\ta\t-e\n')
    expect('-- ' .. path .. ' x', nil, '1\tx\tnil\tx\n')
    expect('-', 'print(1 + 1)', '2\n')
    expect('', 'print(6 * 7)', '42\n')
    expect('- a b', 'print(...)', 'a\tb\n')
    local folder = t.folder()
    local module = assert(io.open(folder .. '/mine.lua', 'w'))
    module:write 'return {answer = 42}'
    module:close()
    local user = assert(io.open(folder .. '/user.lua', 'w'))
    user:write "print(require 'mine'.answer)"
    user:close()
    t.ok(t.run('cd / && ' .. binary .. ' bench --help </dev/null'):find '^usage: ') -- dlv3's own scripts from anywhere
    expect(folder .. '/user.lua', nil, '42\n') -- a module beside the script, from another working directory
  end)

  t.case('exit codes and error texts', function()
    expect("-e 'os.exit(7)'", nil, '', 7)
    expect("-e 'os.exit(false)'", nil, '', 1)
    expect("-e 'error(\"no such thing\", 0)'", nil, 'dlv3: no such thing\n', 1)
    expect("-e 'error(setmetatable({}, {__tostring = function() return \"an object\" end}))'", nil, 'dlv3: an object\n',
           1)
    expect([[-e 'error("a\0b\27[31mc\r\127 \228\184\173\ttab", 0)']], nil,
           'dlv3: a\\x00b\\x1b[31mc\\x0d\\x7f \228\184\173\ttab\n', 1)
    expect([[-e 'error(setmetatable({}, {__tostring = function() return "an\27object" end}))']], nil,
           'dlv3: an\\x1bobject\n', 1)
    expect([[-e 'error("\255p", 0)']], nil, 'dlv3: \\xffp\n', 1)
    -- places in dlv3's own code are short, the user's paths whole
    local root = require('dlv3.host').root
    local form = "see %sscripts/x.lua:12: and {root}/out/last.pth and '{root}/my.lua', {root}, {root}x/y.lua:3"
    local function given(code) return (form:format(code):gsub('{root}', root)) end
    expect(('-e "error([[%s]], 0)"'):format(given(root .. '/')), nil, 'dlv3: ' .. given '' .. '\n', 1)
    expect('-i', ('error([[%s]], 0)\n'):format(given(root .. '/')), 'error: ' .. given '' .. '\n')
    local path = script 'local function f() error("deep") end\nlocal function g() f() return 1 end\ng()\n'
    expect(path, nil, ('dlv3: %s:1: deep\n  from %s:2 in g\n  from %s:3\n'):format(path, path, path), 1)
    local text, status = dlv3 '/nowhere.lua'
    t.ok(text:find('/nowhere.lua: No such file', 1, true) and status == 1, text)
    text, status = dlv3 '--nonsense'
    t.ok(text:find("no option '--nonsense'", 1, true) and status == 2, text)
    text, status = dlv3 '-e'
    t.ok(text:find('-e needs the code', 1, true) and status == 2, text)
    text, status = dlv3(script 'local x = 1 +')
    t.ok(text:find("script.lua:1: unexpected symbol near '<eof>'", 1, true) and status == 1, text)
  end)

  t.case('a locale with a decimal comma changes no number', function()
    local folder = t.folder()
    local _, status = t.run('localedef -i de_DE -f UTF-8 ' .. folder .. '/de_DE.UTF-8')
    if status ~= 0 then t.skip 'no localedef, or no sources of locales (package locales)' end
    local path = script [[
local dlv3, json, files, log = require 'dlv3', require 'dlv3.io.json', require 'dlv3.io.files', require 'dlv3.train.log'
local folder = arg[1]
os.setlocale '' -- as a library may do behind one's back
local opt = require 'dlv3.cli.options'.parse({{'lr', 1e-4, 'rate'}}, {'--lr', '0.25'})
dlv3.save(folder .. '/a.safetensors', {x = dlv3.tensor{0.5}})
dlv3.save(folder .. '/a.pth', {x = 0.5})
files.save_text(folder .. '/a.json', json.encode{x = 0.5})
log.append_results(folder .. '/results.txt', 0, 0.5, 0.25, log.metrics(94.7, {97.04}, {93.9}, 76.85))
print(os.setlocale(), opt.lr, json.decode '[1.5]'[1], dlv3.load(folder .. '/a.safetensors').x[1]:item(),
      dlv3.load(folder .. '/a.pth').x, json.decode(json.encode{x = 0.5}).x, dlv3.tensor{0.5})
]]
    local output = t.run(("LOCPATH='%s' LC_ALL=de_DE.UTF-8 '%s' %s %s; cat %s/a.json %s/results.txt"):format(
        folder, binary, path, folder, folder, folder))
    t.ok(output:find('de_DE.UTF-8\t0.25\t1.5\t0.5\t0.5\t0.5\t[', 1, true), output)
    t.ok(not output:find '%d,%d' and output:find('"x":%s*0%.5')
         and output:find('train_loss: 0.5000\nlr: 0.250000\nglobal correct: 94.7', 1, true), output)
  end)

  t.case('wrong options of a script end it with 2', function()
    local path = script "local o = require 'dlv3.cli.options'.parse({{'lr', 0.1, 'rate'}}, arg) print(o.lr)"
    expect(path .. ' --lr 0.5', nil, '0.5\n')
    local text, status = dlv3(path .. ' --rl 0.5')
    t.eq(text, "script.lua: no option '--rl'; did you mean '--lr'? (--help lists them)\n")
    t.eq(status, 2)
    text, status = dlv3(path .. ' --help')
    t.ok(text:find('--lr X', 1, true) and text:find('[0.1]', 1, true) and status == 0, text)
  end)

  t.case('globals must be declared', function()
    local text, status = dlv3(script 'print(1)\nprnt(2)\n')
    t.ok(text:find("script.lua:2: reads a variable that was never declared: prnt; did you mean 'print'?", 1, true)
         and status == 1, text)
    text = dlv3(script 'x = 1')
    t.ok(text:find('sets a variable that was never declared: x', 1, true), text)
  end)

  -- Libraries whose checksum of the shared headers is another one, or that have none, are refused
  -- before anything of them is called.
  t.case('a library of another version is refused', function()
    local folder = t.folder()
    local function state_of(source)
      files.save_text(folder .. '/part.c', source)
      local compiler = os.getenv 'CC' or 'cc'
      local _, built = t.run(('%s -shared -fPIC -o %s/part.so %s/part.c'):format(compiler, folder, folder))
      t.eq(built, 0)
      return (t.run(('DLV3_CUDA_LIBRARY=%s/part.so %s --version'):format(folder, binary)))
    end
    local entry = '#include <stdlib.h>\nvoid *dlv3_backend_open(void *api) { abort(); }\n'
    local text = state_of(entry .. 'const char dlv3_contract[] = "0123456789abcdef";')
    t.ok(text:find 'part.so was built for another version of dlv3 %(contract 0123456789abcdef, this program has %x+%)',
         text)
    text = state_of(entry)
    t.ok(text:find '%(contract none, this program has', text)
  end)

  t.case('--version and --help', function()
    local text, status = dlv3 '--version'
    t.eq(status, 0)
    for _, part in ipairs {'^dlv3 %d+%.%d+%.%d+\n', '\nluajit +LuaJIT 2', '\nlibpng +1', '\nlibjpeg ', '\nzlib +1',
                           '\nonednn +%d', '\ncompiler ', '\ncpu '} do
      t.ok(text:find(part), 'no ' .. part .. ' in ' .. text)
    end
    text, status = dlv3 '--help'
    t.ok(text:find '^usage: dlv3' and status == 0)
  end)

  t.case('the REPL prints expressions and survives errors', function()
    expect('-i', '1 + 1\nx = 3\nx * 2, "a"\nlocal y = x\ny\nnil\n', "2\n6\t'a'\n3\nnil\n")
    expect('-i', 'for i = 1, 2 do\nprint(i)\nend\n{1, {a = true}}\n', '1\n2\n{1, {a = true}}\n')
    expect('-i', 'error("boo")\n2\n', 'error: boo\n2\n')
    expect('-i', 'local function f() error("boo") end\nf()\ndlv3.zeros(2, "x")\n7\n',
           'error: boo\nerror: zeros: size 2: expected a whole number from 0 to 2^53, got \'x\'\n7\n')
    expect('-i', 'x = = 1\nprnt\n7\n', "error: unexpected symbol near '='\nerror: reads a variable that was never "
                                       .. "declared: prnt; did you mean 'print'?\n7\n")
    expect('-i', 'x = 3; x\nlocal a = 1; local b = a + 1; a, b\na\nb\n',
           '3\n1\t2\n1\nerror: reads a variable that was never declared: b (a local ends with its line here: '
           .. 'b = ...)\n')
    expect('-i', 'for i = 1, 3 do print(i); 77 end\n7\n', "error: unexpected symbol near '77'\n7\n")
    t.ok(dlv3('-i', 'help\n'):find '^Modules.*Help on one: %?conv2d')
    expect('-i', "m = nn.ReLU()\nm:evall()\n", "error: attempt to call method 'evall' (a nil value); did you mean "
                                               .. "'eval'?\n")
    expect('-i', 'f(\n', 'error: the input ends in the middle of: f(\n')
    expect("-i -e 'a = 5'", 'a\nquit\n6', '5\n')
    expect('-i', '_G.a_list = {}\nfor i = 1, 300 do a_list[i] = i end\n#a_list\n', '300\n')
  end)

  t.case('Ctrl-C stops a computation and not the session', function()
    local text = t.run("printf 'while true do end\\n1 + 1\\n' | timeout -s INT 0.5 " .. binary .. ' -i')
    t.eq(text, 'error: interrupted\n2\n')
  end)

  t.case('a script sees SIGINT and SIGTERM as a flag', function()
    local path = script [[
      local system = require 'dlv3.os'
      system.catch_signals()
      for _, name in ipairs {'INT', 'TERM'} do
        io.popen('kill -' .. name .. ' $PPID'):close()
        print(system.pending_signal())
        system.clear_signal()
      end
      print(system.pending_signal())
      io.stdout:flush()
      io.popen 'kill -INT $PPID':close()
      io.popen 'sleep 0.4; kill -INT $PPID':close() -- the second one ends the process
      print 'not reached']]
    local text, status = dlv3(path)
    t.eq(text, '2\n15\nnil\n')
    t.eq(status, 130)
  end)

  t.case('tensors at the prompt', function()
    expect('-i', 'dlv3.tensor{{1, 2}, {3, 4}}\n{out = dlv3.zeros{2, 3}}\n',
           '[[1., 2.],\n [3., 4.]]\n[f32 cpu 2x2]\n{out = [f32 cpu 2x3]}\n')
  end)

  t.case('help at the prompt', function()
    local text = dlv3('-i', '?conv2d\n')
    for _, part in ipairs {'x:conv2d(w, [b], [residual], [scale], {stride = 1, padding = 0, dilation = 1, groups = '
                           .. '1, activation = none}) -> y',
                           'a number or {h, w}', 'default 1', 'has a gradient', 'x* w* b? residual? scale? -> y'} do
      t.ok(text:find(part, 1, true), 'no ' .. part .. ' in ' .. text)
    end
    t.ok(dlv3('-i', '?dlv3.scope\n'):find('every storage made inside is freed', 1, true))
    t.ok(dlv3('-i', '?\n'):find('conv2d matmul', 1, true))
    t.ok(dlv3('-i', '?con2d\n'):find("did you mean 'conv2d'", 1, true))
    t.ok(dlv3('-i', '?SGD\n'):find('optim.SGD(groups, options)', 1, true))
    t.ok(dlv3('-i', '?linear\n'):find('x:linear(w, b)', 1, true))
    t.ok(dlv3('-i', '?dlv3\n'):find('the module dlv3', 1, true))
  end)

  t.case('completion', function()
    local complete, strict = require 'dlv3.repl.complete'.complete, require 'dlv3.core.strict'
    strict.offer {dlv3 = 'dlv3'}
    local function words(line)
      local n, list = complete(line)
      return line:sub(#line - n + 1), list
    end
    local word, list = words 'print(dlv3.manual_s'
    t.eq({word, list}, {'manual_s', {'manual_seed'}})
    word, list = words 'y = string.re'
    t.eq({word, list}, {'re', {'rep', 'reverse'}})
    word, list = words 'x:sum():resh'
    t.eq({word, list}, {'resh', {'reshape'}})
    t.eq(select(2, words '?upsample_b'), {'upsample_bilinear2d'})
    t.eq(select(2, words 'whi'), {'while'})
    t.eq(select(2, words 'x.y.z'), {})
    word, list = words("dlv3.load('" .. t.directory .. '/end_to_end/test_hos')
    t.eq({word, list}, {'test_hos', {'test_host.lua'}})
    strict.offered.dlv3 = nil
    rawset(_G, 'dlv3', nil)
  end)
end
