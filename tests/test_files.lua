-- test_files.lua - dlv3.load and dlv3.save: the containers of PyTorch, safetensors, hostile and damaged files, torch itself.
--
-- The fixtures are made by golden/make_files.py; hostile files are put together here.

local dlv3 = require 'dlv3'
local bytes = require 'dlv3.bytes'
local dict = require 'dlv3.dict'
local json = require 'dlv3.json'
local pickle = require 'dlv3.pickle'
local zip = require 'dlv3.zip'

local function write(path, s)
  local f = assert(io.open(path, 'wb'))
  f:write(s)
  f:close()
  return path
end

local function slurp(path)
  local f = assert(io.open(path, 'rb'))
  local s = f:read '*a'
  f:close()
  return s
end

-- f32 tensor of the numbers first, first + 1, ...
local function counting(sizes, first)
  local n = 1
  for _, s in ipairs(sizes) do n = n * s end
  local F = require 'dlv3.ffi'
  local values = F.new('float[?]', n)
  for i = 0, n - 1 do values[i] = (first or 0) + i end
  return dlv3.frombytes(F.string(values, n * 4), sizes)
end

-- A .pth of this pickle and these storages: {key = bytes}.
local function pth(path, text, storages, extra)
  local file = bytes.create(path)
  local archive = zip.create(file)
  local function add(name, s) archive:add(name, #s, function(f) f:write(s) end) end
  add('top/data.pkl', text)
  for key, s in pairs(storages or {}) do add('top/data/' .. key, s) end
  for name, s in pairs(extra or {}) do add(name, s) end
  archive:finish()
  file:commit()
  file:close()
  return path
end

-- The pickle of one tensor: numbers and tuples as given in pickle operations.
local function tensor_pickle(numel, offset, sizes, strides, type, key)
  local function int(n) return 'L' .. ('%.0f'):format(n) .. 'L\n' end
  local function tuple(list)
    local parts = {}
    for i, n in ipairs(list) do parts[i] = int(n) end
    return '(' .. table.concat(parts) .. 't'
  end
  return 'ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\n' .. (type or 'FloatStorage') .. '\nX\1\0\0\0' .. (key or '0') .. 'X\3\0\0\0cpu' .. int(numel) .. 'tQ' ..
         int(offset) .. tuple(sizes) .. tuple(strides) .. '\137}tR'
end

local expected_fields = {f64 = {{0.1, -2.5}, {3e300, 4}}, f16 = {0.5, -65504}, i32 = {-5, 7}, i16 = {-300, 300}, i8 = {-3, 100}, u8 = {0, 255}, bool = {1, 0, 1},
                         view = {{4, 5, 6}, {7, 8, 9}}, strided = {1, 4, 7, 10, 13, 16, 19, 22}, param = {1, 2, 3}, expanded = {{7, 7}, {7, 7}}}

local function check_values(t, d)
  t.ok(dict.is(d))
  t.eq(dict.keys(d), {'conv.weight', 'conv.last', 'param', 'f64', 'f16', 'bf16', 'i64', 'i32', 'i16', 'i8', 'u8', 'bool', 'empty', 'base', 'view',
                      'transposed', 'strided', 'tied', 'expanded', 'plain', 'args'})
  for name, value in pairs(expected_fields) do t.eq(d[name]:totable(), value, name) end
  t.eq(d['conv.weight']:tobytes(), counting({2, 3, 2, 2}):tobytes())
  t.eq(d['conv.last']:tobytes(), counting({2, 3, 2, 2}):tobytes(), 'channels-last')
  t.ok(d['conv.weight']:is_contiguous() and d['conv.last']:is_contiguous(), 'both are channels-last here')
  t.eq(d.i64:item(), 2 ^ 40 + 1)
  t.eq(d.i64:size(), {})
  t.eq(d.empty:size(), {0, 3})
  t.eq(d.transposed:totable()[2], {1, 7, 13, 19})
  for name, dtype in pairs {param = 'f32', f64 = 'f64', f16 = 'f16', bf16 = 'bf16', i64 = 'i64', i32 = 'i32', i16 = 'i32', i8 = 'i32', u8 = 'u8', bool = 'bool'} do
    t.eq(d[name].dtype, dtype)
  end
  t.eq(d.plain.lr, 0.1)
  t.eq(d.plain.epoch, 3)
  t.eq(d.plain.big, 2LL ^ 60)
  t.eq(d.plain.minus, -70000)
  t.eq(d.plain.yes, true)
  t.ok(d.plain.none == dlv3.none)
  t.eq(d.plain.text, 'gr\195\188n')
  t.eq(d.plain.list, {1, {2, {3.5}}})
  t.eq(d.plain[0].momentum_buffer:totable(), {0.25})
  t.eq(d.args.model, 'deeplabv3_resnet50')
  t.eq(d.args.aux, false)
end

return function(t)
  local golden = t.directory .. '/golden/'

  t.case('dicts keep their order', function()
    local d = dict.new()
    d.b = 1
    d.a = 2
    d[3] = 7
    d[true] = 8
    d.b = nil
    d.c = 3
    d.b = 9
    d.a = 4
    t.eq(dict.keys(d), {'a', 3, true, 'c', 'b'})
    t.eq(dict.size(d), 5)
    t.ok(dict.is(d) and not dict.is {} and not dict.is 'x')
    for k in dict.items(d) do d[k] = nil end
    t.eq(dict.size(d), 0)
    for i = 1, 1000 do
      d.x = i
      d.x = nil
    end
    t.ok(getmetatable(d).n < 100, 'what was taken out is forgotten')
    t.error(function() d[{}] = 1 end, 'a key of a dict')
    t.eq(dict.keys {b = 1, a = 2, 5, 6}, {1, 2, 'a', 'b'})
    t.eq(dict.keys(dict.from {{'z', 1}, {'y', 2}}), {'z', 'y'})
  end)

  t.case('JSON', function()
    local text = [[ {"a":[1,2.5e3,-7,{"x":null}],"b":"q\"\u00e9\ud83d\ude00\n","t":true,"e":{},"l":[]} ]]
    t.eq(json.encode(json.decode(text)), '{"a":[1,2500,-7,{"x":null}],"b":"q\\"\195\169\240\159\152\128\\n","t":true,"e":{},"l":[]}')
    for _, bad in ipairs {'', '{', '[1,]', '{"a":1,"a":2}', '"abc', '1e', '[1 2]', 'nul', ('['):rep(100), '1 2', '"\\ud800"', '"\\q"', '-', '{1:2}', '\0'} do
      t.error(function() json.decode(bad) end, 'JSON: ')
    end
  end)

  t.case('the zip of torch.save', function() check_values(t, dlv3.load(golden .. 'files_zip.pth')) end)
  t.case('the stream of older torch.save', function() check_values(t, dlv3.load(golden .. 'files_stream.pth')) end)

  t.case('the tar of 2016', function()
    local d = dlv3.load(golden .. 'files_tar.pth')
    t.eq(dict.keys(d), {'weight', 'count', 'tail'})
    t.eq(d.weight:totable(), {{0, 1}, {2, 3}})
    t.eq(d.count:totable(), {5, 6})
    t.eq(d.count.dtype, 'i64')
    t.eq(d.tail:totable(), {2, 3, 4, 5})
  end)

  t.case('safetensors', function()
    local d = dlv3.load(golden .. 'files.safetensors')
    t.eq(dict.keys(d), {'conv.weight', 'f16', 'i64', 'i8', 'bool', 'empty'})
    t.eq(d['conv.weight']:tobytes(), counting({2, 3, 2, 2}):tobytes())
    t.eq(d.i8:totable(), {-3, 100})
    t.eq(d.i64:item(), 2 ^ 40 + 1)
    t.eq(d.empty:size(), {0, 3})
  end)

  t.case('tensors of one storage share it', function()
    for _, name in ipairs {'files_zip.pth', 'files_stream.pth'} do
      local F, d = require 'dlv3.ffi', dlv3.load(golden .. name)
      local function address(x) return tonumber(F.C.dlv3_tensor_address(x.p)) end
      t.eq(address(d.view) - address(d.base), 16)
      t.eq(address(d.strided) - address(d.base), 4)
      t.eq(address(d.tied), address(d['conv.weight']))
      t.eq(d.transposed:stride(), {1, 6})
    end
  end)

  t.case('what is saved comes back', function()
    local path = t.folder() .. '/a.pth'
    local d = dlv3.load(golden .. 'files_zip.pth')
    d.table = {name = 'x', list = {1, 2, {3}}, f = -0.5, nested = {deep = {empty = {}}}}
    d.same = d.table
    d.bytes = 'not UTF-8: \0\255'
    dlv3.save(path, d)
    local e = dlv3.load(path)
    t.eq(e.table.name, 'x')
    t.eq(e.table.list, {1, 2, {3}})
    t.ok(e.table == e.same, 'one table stays one')
    t.eq(e.bytes, d.bytes)
    e.bytes = nil
    t.eq(dict.keys(e.table), {'f', 'list', 'name', 'nested'})
    e.table, e.same = nil, nil
    check_values(t, e)
    for k, v in dict.items(d) do if dlv3.is_tensor(v) then t.eq(e[k], v, k) end end
    t.eq(slurp(path):sub(1, 2), 'PK')
    for _, v in ipairs {1, 0.5, 'text', '\255\0 bytes', true, dlv3.none, counting({2, 2})} do
      dlv3.save(path, v)
      t.eq(dlv3.load(path), v)
    end
    local numbers = {0, 255, 256, 65535, 65536, -1, 2 ^ 31 - 1, 2 ^ 31, -2 ^ 31, -2 ^ 31 - 1, 2 ^ 53, -2 ^ 53, 1e300, 0.1, math.huge, -math.huge, 2 ^ 60}
    dlv3.save(path, numbers)
    t.eq(dlv3.load(path), numbers)
    local names = dict.new()
    for i = 1, 700 do names['key ' .. i] = 'value ' .. i end -- more than a byte counts
    dlv3.save(path, names)
    t.eq(dict.keys(dlv3.load(path)), dict.keys(names))
  end)

  t.case('large tensors, read in pieces by several threads', function()
    local path = t.folder() .. '/large.pth'
    local saved = {filters = dlv3.randn{61, 301, 3, 5}, turned = dlv3.randn({700, 501}, {dtype = 'bf16'}):transpose(1, 2), straight = dlv3.randn{3, 300001}}
    dlv3.save(path, saved)
    local loaded = dlv3.load(path)
    for name, x in pairs(saved) do
      t.eq(loaded[name]:size(), x:size())
      t.eq((loaded[name]:to 'f32' - x:to 'f32'):abs():max():item(), 0, name)
    end
  end)

  t.case('safetensors are saved by their name', function()
    local path = t.folder() .. '/a.safetensors'
    local d = dict.from {{'w', counting {2, 3, 2, 2}}, {'b', counting({3}, 5)}, {'n', dlv3.frombytes(('\1\0\0\0\0\0\0\0'), {}, {dtype = 'i64'})}}
    dlv3.save(path, d)
    local e = dlv3.load(path)
    t.eq(dict.keys(e), {'w', 'b', 'n'})
    for k, v in dict.items(d) do t.eq(e[k], v) end
    t.eq(slurp(path):sub(9, 9), '{')
    t.error(function() dlv3.save(path, {epoch = 3}) end, "a.safetensors: 'epoch' is a number: safetensors files hold tensors only")
    t.error(function() dlv3.save(path, 3) end, 'holds a dict of tensors')
    t.eq(dict.keys(dlv3.load(path)), {'w', 'b', 'n'}, 'the old file is still there')
  end)

  t.case('saving is all or nothing', function()
    local folder = t.folder()
    local path = folder .. '/a.pth'
    dlv3.save(path, {a = 1})
    t.error(function() dlv3.save(path, {b = {c = print}}) end, 'a.pth: b.c is a function, which can not be saved')
    t.eq(dlv3.load(path).a, 1)
    write(path .. '.part', 'left over by a process that was killed')
    dlv3.save(path, {a = 2})
    t.eq(dlv3.load(path).a, 2)
    t.eq((t.run('ls ' .. folder)), 'a.pth\n')
    t.run('cd ' .. folder .. ' && mv a.pth real.pth && ln -s real.pth a.pth')
    dlv3.save(path, {a = 3})
    t.eq((t.run('cd ' .. folder .. ' && readlink a.pth && ls')), 'real.pth\na.pth\nreal.pth\n')
    t.eq(dlv3.load(folder .. '/real.pth').a, 3)
    -- another process that is just writing it
    local other = bytes.create(path)
    t.error(function() dlv3.save(path, {a = 4}) end, 'another process is writing it')
    other:close()
    dlv3.save(path, {a = 5})
  end)

  t.case('what can not be saved says where', function()
    local path = t.folder() .. '/a.pth'
    local loop = {}
    loop[1] = loop
    local deep = {}
    for _ = 1, 300 do deep = {deep} end
    for _, case in ipairs {
      {nil, 'nothing to save'}, {{1, x = 2}, 'both numbers and names'}, {{1, nil, 3}, 'holes'}, {{x = loop}, 'x.1 contains itself'}, {deep, 'nested deeper'},
      {{m = {setmetatable({}, {})}}, 'm.1 is an object'}, {{f = function() end}, 'f is a function'},
    } do t.error(function() dlv3.save(path, case[1]) end, case[2]) end
    local x = counting {2}
    x:release()
    t.error(function() dlv3.save(path, {x = x}) end, 'released')
    t.error(function() dlv3.save('', 1) end, "a file's name is expected")
    t.error(function() dlv3.save('/', 1) end, 'directory')
    t.error(function() dlv3.save('/nowhere/a.pth', 1) end, '/nowhere/a.pth: can not be written: No such file')
    t.error(function() dlv3.save('/dev/null', 1) end, 'not a regular file')
  end)

  t.case('files that are no weights are refused with the reason', function()
    local folder = t.folder()
    local function refused(content, pattern)
      write(folder .. '/x.pth', content)
      t.error(function() dlv3.load(folder .. '/x.pth') end, 'x%.pth: .*' .. pattern)
    end
    refused('', 'is empty')
    refused('\n<!DOCTYPE html><html>', 'an HTML or XML page')
    refused('\137PNG\r\n\26\n', 'a picture')
    refused('\31\139abc', 'gzip')
    refused('version https://git-lfs.github.com/spec/v1\n', 'Git LFS')
    refused('hello, this is text', 'neither a .pth file')
    refused('\128\2}q\0.', 'a plain pickle')
    refused('\128', 'truncated')
    refused('PK\3\4', 'truncated')
    refused(('x'):rep(257) .. 'ustar' .. ('\0'):rep(250), 'a damaged tar header')
    t.error(function() dlv3.load(folder) end, 'is a directory')
    t.error(function() dlv3.load(folder .. '/no') end, 'no: can not be opened: No such file')
    t.error(function() dlv3.load '/dev/zero' end, 'not a regular file')
    t.error(function() dlv3.load(nil) end, "a file's name is expected")
  end)

  t.case('pickles run nothing', function()
    local path = t.folder() .. '/x.pth'
    local function refused(text, pattern, storages, extra)
      pth(path, text, storages, extra)
      t.error(function() dlv3.load(path) end, 'x%.pth: .*' .. pattern)
    end
    local mark = t.folder() .. '/mark'
    local command = 'X' .. bytes.le32(#mark + 6) .. 'touch ' .. mark
    refused('cos\nsystem\n(' .. command .. 'tR.', 'refuses os.system at byte %d+')
    refused('\128\2cposix\nsystem\n' .. command .. '\133R.', 'refuses posix.system')
    refused('\128\4\140\8builtins\140\4eval\147.', 'refuses builtins.eval')
    refused('(ios\nsystem\n' .. command .. '.', 'refuses os.system')
    refused('(cos\nsystem\n' .. command .. 'o.', 'refuses os.system')
    refused('cbuiltins\ngetattr\n.', 'refuses builtins.getattr')
    refused('ctorchvision.models.resnet\nResNet\n)\129.', 'refuses torchvision.models.resnet.ResNet.*model.state_dict%(%)')
    refused('c__builtin__\n__import__\n.', 'refuses __builtin__.__import__')
    refused('ctorch._utils\n_rebuild_tensor_v2\n.', 'stands where a value was expected')
    refused('\130\1.', 'an extension registry')
    t.eq(require 'dlv3.ffi'.C.dlv3_path_kind(mark), 0)
  end)

  t.case('any nan of a file is a number', function() -- LuaJIT takes the bits of some for nil, or for objects
    for _, nan in ipairs{('\255'):rep(8), '\255\253AAAAAA', '\127\240\0\0\0\0\0\1', '\255\248\0\0\0\0\0\0'} do
      local v = dlv3.load(pth(t.folder() .. '/nan.pth', '\128\2}U\1xG' .. nan .. 's.')).x
      t.eq(type(v), 'number')
      t.ok(v ~= v)
      local x = dlv3.frombytes(nan:reverse(), {1}, {dtype = 'f64'})
      t.eq({type(x:item()), type(x:totable()[1])}, {'number', 'number'})
    end
    local x = dlv3.frombytes(('\255'):rep(4), {1})
    t.eq({type(x:item()), type(x:totable()[1])}, {'number', 'number'})
    for _, v in ipairs{'\127\240\0\0\0\0\0\0', '\255\240\0\0\0\0\0\0'} do t.eq(math.abs(bytes.number(v:reverse(), 'f64')), math.huge) end
    t.eq(bytes.number('\0\0\128\127', 'f32'), math.huge)
    t.eq(bytes.number('\255\255\127\127', 'f32') < math.huge, true)
  end)

  t.case('damaged pickles', function()
    local path = t.folder() .. '/x.pth'
    local function refused(text, pattern, storages, extra)
      pth(path, text, storages, extra)
      t.error(function() dlv3.load(path) end, 'x%.pth: .*' .. pattern)
    end
    refused('', 'truncated')
    refused(']', 'truncated')
    refused('.', 'nothing is left on its stack')
    refused('R.', 'nothing is left')
    refused('(1.', 'nothing is left')
    refused('e.', 'no mark')
    refused('h\5.', 'nothing was stored as 5')
    refused(']q\0h\0a.', 'contains itself')
    refused('}q\0K\1h\0s.', 'contains itself')
    refused((']'):rep(1000) .. ('a'):rep(999) .. '.', 'nested deeper than 200')
    refused('\139\255\255\255\127.', 'a string of 2147483647 bytes')
    refused('X\255\255\255\15abc.', 'truncated')
    refused('\128\9N.', 'protocol 9')
    refused('\255.', 'no operation 255')
    refused('}NNs]NK\1su.', '.') -- whatever it is, it is no crash
    refused('(K\1K\2K\3d.', 'a key without a value')
    refused('K\1N)R.', 'no allowed function')
    refused('Labc\n.', 'not a whole number')
    refused('}K\1s.', 'nothing is left')
    refused('}}}s.', 'a dict as a key')
    refused('(N.', 'stops in the middle')
    refused('Vabc', 'truncated')
    refused('X\1\0\0\0aQ.', 'no storage')
  end)

  t.case('bombs: small pickles that would make huge values', function()
    local path = t.folder() .. '/x.pth'
    local function refused(text, pattern)
      pth(path, text)
      t.error(function() dlv3.load(path) end, 'x%.pth: .*' .. pattern)
    end
    local list = '](' .. ('K\1'):rep(5000) .. 'eq\0'
    refused('(ctorch\nSize\nq\1' .. list .. ('h\1h\0\133R'):rep(5000) .. 'l.', 'more than 8000000 objects')
    local many = {}
    for i = 1, 3000 do many[i] = 'J' .. bytes.le32(i) .. 'N' end
    local big = '}(' .. table.concat(many) .. 'uq\0'
    refused('(ccollections\nOrderedDict\nq\1' .. big .. ('h\1h\0\133R'):rep(5000) .. 'l.', 'more than 8000000 objects')
    refused('(cargparse\nNamespace\nq\1' .. big .. ('h\1)Rh\0b'):rep(5000) .. 'l.', 'more than 8000000 objects')
    refused('cpathlib\nPosixPath\nq\1X\1\0\0\0aq\2' .. ('0h\1h\2h\2\134Rq\2'):rep(60) .. '.', 'a path of')
    -- shared lists of lists are no more than their names
    refused(']q\0' .. ('](h\0h\0eq\0'):rep(150) .. 'X\1\0\0\0aQ.', 'no storage')
    local text = ']q\0' .. ('](h\0h\0eq\0'):rep(150) .. '.'
    pth(path, text)
    t.eq(#dlv3.load(path), 2)
  end)

  t.case('absurd tensors are refused before memory is asked for', function()
    local path = t.folder() .. '/x.pth'
    local four = ('\0'):rep(16)
    local function refused(text, pattern, storages, extra)
      pth(path, text .. '.', storages or {['0'] = four}, extra)
      t.error(function() dlv3.load(path) end, 'x%.pth: .*' .. pattern)
    end
    pth(path, tensor_pickle(4, 0, {2, 2}, {2, 1}) .. '.', {['0'] = four})
    t.eq(dlv3.load(path):size(), {2, 2})
    refused(tensor_pickle(2 ^ 50, 0, {2 ^ 50}, {1}), 'has 16 bytes where its tensors expect')
    refused(tensor_pickle(4, 0, {2 ^ 40}, {0}) .. tensor_pickle(4, 0, {5}, {1}) .. '\134', 'reaches past its storage of 4')
    refused(tensor_pickle(4, 0, {2 ^ 30, 2 ^ 30}, {0, 0}), 'more elements than can be counted')
    refused(tensor_pickle(4, 0, {5}, {1}), 'reaches past')
    refused(tensor_pickle(4, 3, {2}, {1}), 'reaches past')
    refused(tensor_pickle(4, 0, {2, 2}, {2 ^ 52, 1}), 'reaches past')
    refused(tensor_pickle(4, -1, {2}, {1}), 'begins at element %-1')
    refused(tensor_pickle(4, 0, {-2}, {1}), 'size %-2')
    refused(tensor_pickle(4, 0, {2}, {-1}), 'stride %-1')
    refused(tensor_pickle(-4, 0, {2}, {1}), 'has %-4 elements')
    refused(tensor_pickle(4, 0, {2}, {1, 1}), 'without sizes and strides')
    refused(tensor_pickle(4, 0, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}), '9 dimensions')
    refused(tensor_pickle(4, 0, {2}, {1}, 'ComplexFloatStorage'), 'ComplexFloatStorage are not supported')
    refused(tensor_pickle(4, 0, {2}, {1}, 'NoStorage'), 'refuses torch.NoStorage')
    refused(tensor_pickle(4, 0, {4}, {1}), "the storage '0' is not in the archive", {})
    refused(tensor_pickle(2, 0, {2}, {1}) .. tensor_pickle(4, 0, {4}, {1}) .. '\134', 'described twice')
    refused(tensor_pickle(4, 0, {4}, {1}), 'big%-endian', nil, {['top/byteorder'] = 'big'})
    refused(tensor_pickle(4, 0, {4}, {1}), 'TorchScript', nil, {['top/constants.pkl'] = 'x'})
    -- an expanded tensor is a view: its size costs nothing
    pth(path, tensor_pickle(4, 0, {2 ^ 40}, {0}) .. '.', {['0'] = four})
    t.eq(dlv3.load(path):size(), {2 ^ 40})
  end)

  t.case('damaged archives', function()
    local path = t.folder() .. '/x.pth'
    local good = slurp(golden .. 'files_zip.pth')
    local function refused(content, pattern)
      write(path, content)
      t.error(function() dlv3.load(path) end, 'x%.pth: .*' .. pattern)
    end
    refused(good:sub(1, 3000), 'truncated')
    refused(good:sub(1, -23), 'truncated')
    local directory = bytes.u32(good, #good - 5)
    refused(good:sub(1, directory + 10) .. '\8' .. good:sub(directory + 12), 'compressed')
    refused(good:sub(1, directory + 8) .. '\1' .. good:sub(directory + 10), 'encrypted')
    refused(good:sub(1, directory) .. 'X' .. good:sub(directory + 2), 'damaged directory')
    refused('X' .. good:sub(2), 'neither')
    -- two storages that are the same bytes of the file, again and again
    local file = bytes.create(path)
    local archive = zip.create(file)
    local items = {}
    for i = 0, 9 do items[i + 1] = tensor_pickle(500, 0, {500}, {1}, nil, i) end
    local text = '(' .. table.concat(items) .. 'l.'
    archive:add('a/data.pkl', #text, function(f) f:write(text) end)
    archive:add('a/data/0', 2000, function(f) f:write(('\0'):rep(2000)) end)
    for i = 1, 9 do archive.entries[i + 2] = {name = 'a/data/' .. i, size = 2000, crc = 0, start = archive.entries[2].start} end
    archive:finish()
    file:commit()
    file:close()
    t.error(function() dlv3.load(path) end, 'storages overlap')
    local stream = slurp(golden .. 'files_stream.pth')
    for _, n in ipairs {14, 15, 20, 200, 1000, 2000, #stream - 1} do refused(stream:sub(1, n), 'truncated') end
    local tar = slurp(golden .. 'files_tar.pth')
    refused(tar:sub(1, tar:find 'storages%z' + 520), 'ends past the end of the file')
    refused(tar:sub(1, 1024), "without 'storages'")
    local st = slurp(golden .. 'files.safetensors')
    refused(st:sub(1, -2), "'bool'.*past the end")
    refused('\255\255\255\255\0\0\0\0{' .. st, 'a header of 4294967295 bytes')
    refused(st:gsub('"shape": %[2, 3, 2, 2%]', '"shape": [2, 3, 2, 9]'), 'its shape and dtype need')
    refused(st:gsub('"F16"', '"F17"'), 'dtype F17')
  end)

  -- Any damage gives the values or an error that names the file: no crash, no Lua error from within.
  t.case('thousands of damaged files', function()
    local folder = t.folder()
    math.randomseed(7)
    local random = math.random
    local rounds = tonumber(os.getenv 'DLV3_FUZZ' or 400)
    for _, name in ipairs {'files_zip.pth', 'files_stream.pth', 'files_tar.pth', 'files.safetensors'} do
      local good = slurp(golden .. name)
      for round = 1, rounds do
        local s = good
        for _ = 1, random(1, 4) do
          local at, kind = random(1, #s), random(1, 6)
          local new = kind == 1 and '' or kind == 2 and ('\255'):rep(random(1, 8)) or kind == 3 and s:sub(at, at + random(0, 40)):rep(2) or string.char(random(0, 255))
          s = kind == 6 and s:sub(1, at) or s:sub(1, at - 1) .. new .. s:sub(kind == 3 and at or at + #new + (kind == 1 and 1 or 0))
          if s == '' then s = 'x' end
        end
        local path = write(folder .. '/' .. name, s)
        local ok, message = pcall(dlv3.load, path)
        if not ok and (type(message) ~= 'string' or not message:find(name, 1, true) or message:find 'attempt to') then
          error(('round %d of %s: %s'):format(round, name, tostring(message)), 0)
        end
      end
    end
  end)

  t.case('torch reads what dlv3 writes', function()
    local python, reason = t.python 'torch'
    if not python then t.skip(reason) end
    local folder = t.folder()
    local d = dlv3.load(golden .. 'files_zip.pth')
    d.bytes = '\0\255'
    dlv3.save(folder .. '/all.pth', d)
    local state = dict.new()
    for _, name in ipairs {'conv.weight', 'conv.last', 'param', 'f64', 'f16', 'bf16', 'i64', 'i32', 'u8', 'bool', 'empty', 'transposed', 'strided', 'tied'} do state[name] = d[name] end
    dlv3.save(folder .. '/state.pth', state)
    write(folder .. '/check.py', [==[
import collections, sys, zipfile, torch
folder, golden = sys.argv[1:]
want = torch.load(golden + 'files_zip.pth')
got = torch.load(folder + '/all.pth')
assert got.pop('bytes') == b'\x00\xff'
assert zipfile.ZipFile(folder + '/all.pth').testzip() is None
assert list(got) == list(want), list(got)
for k, v in want.items():
    if isinstance(v, torch.Tensor) and k not in ('i8', 'i16'):
        assert got[k].dtype == v.dtype and torch.equal(got[k], v), k
assert got['tied'].data_ptr() == got['conv.weight'].data_ptr()
p, w = got['plain'], want['plain']
assert torch.equal(p[0]['momentum_buffer'], w[0]['momentum_buffer'])
w.pop(0), p.pop(0)
w['list'] = [1, [2, [3.5]]]
assert p == w and type(p['epoch']) is int and type(p['lr']) is float and type(p['yes']) is bool, p
assert got['args'] == {'model': 'deeplabv3_resnet50', 'aux': False}
state = torch.load(folder + '/state.pth', weights_only=True)
assert type(state) is collections.OrderedDict and not any(v.requires_grad for v in state.values())
for k, v in state.items():
    assert v.dtype == want[k].dtype and torch.equal(v, want[k]) and v.is_contiguous(), k
print('fine')
]==])
    local output = t.run(python .. ' -W ignore ' .. folder .. '/check.py ' .. folder .. ' ' .. golden)
    t.ok(output:find 'fine', output)
  end)

  t.case('every protocol of torch.save', function()
    local python, reason = t.python 'torch'
    if not python then t.skip(reason) end
    local folder = t.folder()
    write(folder .. '/make.py', [==[
import sys, torch
folder, golden = sys.argv[1:]
d = torch.load(golden + 'files_zip.pth')
for p in (2, 3, 4, 5):
    torch.save(d, '%s/zip%d.pth' % (folder, p), pickle_protocol=p)
    torch.save(d, '%s/stream%d.pth' % (folder, p), pickle_protocol=p, _use_new_zipfile_serialization=False)
]==])
    local output, status = t.run(python .. ' -W ignore ' .. folder .. '/make.py ' .. folder .. ' ' .. golden)
    t.eq(status, 0, output)
    for p = 2, 5 do
      check_values(t, dlv3.load(folder .. '/zip' .. p .. '.pth'))
      check_values(t, dlv3.load(folder .. '/stream' .. p .. '.pth'))
    end
  end)

  t.case('a training checkpoint of PyTorch, there and back', function()
    local python, reason = t.python 'torch'
    if not python then t.skip(reason) end
    local folder = t.folder()
    write(folder .. '/both.py', [==[
import argparse, sys, numpy, torch
folder, what = sys.argv[1:]
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda x: 0.5 ** x)
if what == 'make':
    model(torch.ones(2, 3, 5, 5)).sum().backward()
    opt.step(), sched.step()
    torch.save({'model': model.state_dict(), 'optimizer': opt.state_dict(), 'lr_scheduler': sched.state_dict(), 'epoch': 3, 'best': numpy.float64(0.5),
                'count': numpy.int64(7), 'flag': numpy.bool_(True), 'args': argparse.Namespace(lr=0.1, betas=(0.9, 0.999)), 'rng': torch.get_rng_state(),
                'dtype': torch.bfloat16, 'device': torch.device('cuda', 1), 'size': torch.Size([2, 3])}, folder + '/a.pth')
    torch.save(model, folder + '/whole.pth')
    torch.jit.script(model).save(folder + '/script.pth')
else:
    a, b = torch.load(folder + '/a.pth'), torch.load(folder + '/b.pth')
    model.load_state_dict(b['model'])
    opt.load_state_dict(b['optimizer'])
    sched.load_state_dict(b['lr_scheduler'])
    assert sched.last_epoch == 1 and opt.param_groups[0]['lr'] == 0.05, opt.param_groups
    for i, p in a['optimizer']['state'].items():
        assert torch.equal(p['momentum_buffer'], b['optimizer']['state'][i]['momentum_buffer'])
    torch.set_rng_state(b['rng'])
    print('fine')
]==])
    local output, status = t.run(python .. ' -W ignore ' .. folder .. '/both.py ' .. folder .. ' make')
    t.eq(status, 0, output)
    local d = dlv3.load(folder .. '/a.pth')
    t.eq({d.epoch, d.best, d.count, d.flag}, {3, 0.5, 7, true})
    t.eq(d.args.betas, {0.9, 0.999})
    t.eq({d.dtype, d.device}, {'torch.bfloat16', 'cuda:1'})
    t.eq(d.size, {2, 3})
    t.eq(d.optimizer.param_groups[1].params, {0, 1, 2, 3})
    t.eq(d.optimizer.state[0].momentum_buffer:size(), {4, 3, 3, 3})
    t.eq(d.rng.dtype, 'u8')
    dlv3.save(folder .. '/b.pth', d)
    output = t.run(python .. ' -W ignore ' .. folder .. '/both.py ' .. folder .. ' check')
    t.ok(output:find 'fine', output)
    t.error(function() dlv3.load(folder .. '/whole.pth') end, 'refuses torch.nn.modules.container.Sequential.*state_dict')
    t.error(function() dlv3.load(folder .. '/script.pth') end, 'TorchScript')
  end)

  t.case('pickles of plain Python values, protocols 0 to 5', function()
    local python, reason = t.python 'pickle'
    if not python then t.skip(reason) end
    local folder = t.folder()
    write(folder .. '/make.py', [==[
import pickle, sys, collections, pathlib
v = {'i': [0, 1, 255, 256, 65536, -1, 2**31, -2**31, 2**53], 'f': [0.5, -1e300, float('inf')], 's': ['', "it's \\ \n x\\x41", 'gr\u00fcn \U0001f600', 'a' * 300],
     't': (1, (2,), (3, 4, 5, 6)), 'b': [True, False], 'by': b'\x00\xff', 'set': {1}, 'fs': frozenset([2]), 'od': collections.OrderedDict(a=1), 'dd': collections.defaultdict(list, b=2),
     'p': pathlib.PosixPath('/a/b'), ('k', 1): 1, None: 2, 2.5: 3}
for p in range(6):
    open('%s/%d' % (sys.argv[1], p), 'wb').write(pickle.dumps(v, p))
]==])
    local output, status = t.run(python .. ' ' .. folder .. '/make.py ' .. folder)
    t.eq(status, 0, output)
    local session = require 'dlv3.torch_file'.session()
    for p = 0, 5 do
      local v = pickle.read(slurp(folder .. '/' .. p), session.handlers)
      t.eq(v.i, {0, 1, 255, 256, 65536, -1, 2 ^ 31, -2 ^ 31, 2 ^ 53}, 'protocol ' .. p)
      t.eq(v.f, {0.5, -1e300, math.huge})
      t.eq(v.s, {'', "it's \\ \n x\\x41", 'gr\195\188n \240\159\152\128', ('a'):rep(300)}, 'protocol ' .. p)
      t.eq(v.t, {1, {2}, {3, 4, 5, 6}})
      t.eq(v.b, {true, false})
      t.eq(v.by, '\0\255', 'protocol ' .. p)
      t.eq(v.set, {1})
      t.eq(v.fs, {2})
      t.eq(v.od.a, 1)
      t.eq(v.dd.b, 2)
      t.eq(v.p, '/a/b')
      t.eq(v['(k, 1)'], 1)
      t.eq(v.None, 2)
      t.eq(v[2.5], 3)
    end
  end)
end
