-- test_files.lua - dlv3.load and dlv3.save: the containers of PyTorch, safetensors, torch itself
-- (golden/make_files.py makes the fixtures).

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local json = require 'dlv3.io.json'
local pickle = require 'dlv3.io.pickle'

return function(t)
  local files = dofile(t.directory .. '/weight_files.lua')
  local write, slurp, counting, check_values = files.write, files.slurp, files.counting, files.check_values
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
    t.eq(json.encode(json.decode(text)),
         '{"a":[1,2500,-7,{"x":null}],"b":"q\\"\195\169\240\159\152\128\\n","t":true,"e":{},"l":[]}')
    for _, bad in ipairs {'', '{', '[1,]', '{"a":1,"a":2}', '"abc', '1e', '[1 2]', 'nul', ('['):rep(100), '1 2',
                          '"\\ud800"', '"\\q"', '-', '{1:2}', '\0'} do
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
      local d, address = dlv3.load(golden .. name), runtime.address
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
    local numbers = {0, 255, 256, 65535, 65536, -1, 2 ^ 31 - 1, 2 ^ 31, -2 ^ 31, -2 ^ 31 - 1, 2 ^ 53, -2 ^ 53, 1e300,
                     0.1, math.huge, -math.huge, 2 ^ 60}
    dlv3.save(path, numbers)
    t.eq(dlv3.load(path), numbers)
    local names = dict.new()
    for i = 1, 700 do names['key ' .. i] = 'value ' .. i end -- more than a byte counts
    dlv3.save(path, names)
    t.eq(dict.keys(dlv3.load(path)), dict.keys(names))
  end)

  t.case('large tensors, read in pieces by several threads', function()
    local path = t.folder() .. '/large.pth'
    local saved = {filters = dlv3.randn{61, 301, 3, 5},
                   turned = dlv3.randn({700, 501}, {dtype = 'bf16'}):transpose(1, 2), straight = dlv3.randn{3, 300001}}
    dlv3.save(path, saved)
    local loaded = dlv3.load(path)
    for name, x in pairs(saved) do
      t.eq(loaded[name]:size(), x:size())
      t.eq((loaded[name]:to 'f32' - x:to 'f32'):abs():max():item(), 0, name)
    end
  end)

  t.case('safetensors are saved by their name', function()
    local path = t.folder() .. '/a.safetensors'
    local d = dict.from {{'w', counting {2, 3, 2, 2}}, {'b', counting({3}, 5)},
                         {'n', dlv3.frombytes(('\1\0\0\0\0\0\0\0'), {}, {dtype = 'i64'})}}
    dlv3.save(path, d)
    local e = dlv3.load(path)
    t.eq(dict.keys(e), {'w', 'b', 'n'})
    for k, v in dict.items(d) do t.eq(e[k], v) end
    t.eq(slurp(path):sub(9, 9), '{')
    t.error(function() dlv3.save(path, {epoch = 3}) end,
            "a.safetensors: 'epoch' is a number: safetensors files hold tensors only")
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
      {nil, 'nothing to save'}, {{1, x = 2}, 'both numbers and names'}, {{1, nil, 3}, 'holes'},
      {{x = loop}, 'x.1 contains itself'}, {deep, 'nested deeper'},
      {{m = {setmetatable({}, {})}}, 'm.1 is an object'}, {{f = function() end}, 'f is a function'},
    } do t.error(function() dlv3.save(path, case[1]) end, case[2]) end
    local x = counting {2}
    x:release()
    t.error(function() dlv3.save(path, {x = x}) end, 'released')
    t.error(function() dlv3.save('', 1) end, "save: expected a file's name, got ''")
    t.error(function() dlv3.save('/', 1) end, 'directory')
    t.error(function() dlv3.save('/nowhere/a.pth', 1) end, '/nowhere/a.pth: can not be written: No such file')
    t.error(function() dlv3.save('/dev/null', 1) end, 'not a regular file')
  end)

  t.case('torch reads what dlv3 writes', function()
    local python, reason = t.python 'torch'
    if not python then t.skip(reason) end
    local folder = t.folder()
    local d = dlv3.load(golden .. 'files_zip.pth')
    d.bytes = '\0\255'
    dlv3.save(folder .. '/all.pth', d)
    local state = dict.new()
    for _, name in ipairs {'conv.weight', 'conv.last', 'param', 'f64', 'f16', 'bf16', 'i64', 'i32', 'u8', 'bool',
                           'empty', 'transposed', 'strided', 'tied'} do
      state[name] = d[name]
    end
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
    torch.save({'model': model.state_dict(), 'optimizer': opt.state_dict(), 'lr_scheduler': sched.state_dict(), 'epoch':
                3, 'best': numpy.float64(0.5),
                'count': numpy.int64(7), 'flag': numpy.bool_(True), 'rng': torch.get_rng_state(),
                'args': argparse.Namespace(lr=0.1, betas=(0.9, 0.999)),
                'dtype': torch.bfloat16, 'device': torch.device('cuda', 1), 'size': torch.Size([2, 3])},
               folder + '/a.pth')
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
    t.error(function() dlv3.load(folder .. '/whole.pth') end,
            "whole.pth: holds an object of the class torch.nn.modules.container.Sequential, .*\n"
            .. "  model = torch.load%('/%S+whole.pth', map_location='cpu', weights_only=False%)\n"
            .. "  torch.save%(model.state_dict%(%), 'weights.pth'%)$")
    t.error(function() dlv3.load(folder .. '/script.pth') end,
            "a TorchScript program, not weights; in PyTorch:\n"
            .. "  model = torch.jit.load%('/%S+script.pth', map_location='cpu'%)\n"
            .. "  torch.save%(model.state_dict%(%), 'weights.pth'%)$")
    -- the lines do what they say; PyTorch before 1.13 and TorchScript know no weights_only
    for _, name in ipairs{'whole', 'script'} do
      local _, message = pcall(dlv3.load, folder .. '/' .. name .. '.pth')
      local lines = message:match '\n(.*)$':gsub('\n +', '\n'):gsub('^ +', '')
      if name == 'script' then t.ok(not lines:find 'weights_only') end
      write(folder .. '/convert.py', ("import os, torch\nos.chdir('%s')\n%s\n"):format(folder, lines))
      output, status = t.run(python .. ' -W ignore ' .. folder .. '/convert.py')
      t.eq(status, 0, output)
      t.eq(dlv3.load(folder .. '/weights.pth')['0.weight']:size(), {4, 3, 3, 3})
      os.remove(folder .. '/weights.pth')
    end
  end)

  t.case('objects of other classes become opaque values, and the weights beside them are read', function()
    local python, reason = t.python 'torch'
    if not python then t.skip(reason) end
    local folder = t.folder()
    write(folder .. '/make.py', [==[
import collections, datetime, decimal, enum, pathlib, sys, uuid, numpy, torch
class Colour(enum.Enum):
    red = 1
class Names(dict):
    pass
class Items(list):
    pass
Pair = collections.namedtuple('Pair', 'a b')
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
names, items = Names(a=1), Items([1, 2])
names.extra = items.extra = names
extra = {'array': numpy.arange(6.0).reshape(2, 3), 'colour': Colour.red, 'date': datetime.datetime(2024, 1, 2),
         'path': pathlib.PurePosixPath('a/b'),
         'windows': pathlib.PureWindowsPath('a'), 'optimizer': optimizer, 'layer': layer,
         'complex': torch.ones(2, dtype=torch.complex64), 'number': 1 + 2j,
         'sparse': torch.eye(2).to_sparse(), 'quantised': torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
         'when': numpy.datetime64('2024-01-02'),
         'class': Colour, 'function': torch.nn.functional.relu, 'type': numpy.dtype('f4'), 'names': names,
         'items': items, 'pair': Pair(1, 2), 'id': uuid.UUID(int=5),
         'money': decimal.Decimal('1.5'), 'by colour': {Colour.red: 1, 'plain': 2}, 'slice': slice(1, 2),
         'range': range(3), 'storage': torch.ones(2).storage()}
for protocol in (2, 3, 4, 5):
    for zipped in (True, False):
        torch.save({'before': torch.arange(3.0), 'extra': extra, 'list': [Colour.red, 7], 'after': torch.arange(4.0)},
                   '%s/%d%s.pth' % (sys.argv[1], protocol, 'zip' if zipped else 'old'),
                   pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
]==])
    local output, status = t.run(python .. ' -W ignore ' .. folder .. '/make.py ' .. folder)
    t.eq(status, 0, output)
    local classes = {array = 'numpy.ndarray', colour = '__main__.Colour', date = 'datetime.datetime',
                     optimizer = 'torch.optim.sgd.SGD', layer = 'torch.nn.modules.linear.Linear',
                     complex = 'torch.Tensor %(complex', sparse = '_rebuild_sparse_tensor', class = '__main__.Colour',
                     pair = '__main__.Pair', names = '__main__.Names'}
    local count = 0
    for _, kind in ipairs{'zip', 'old'} do
      for protocol = 2, 5 do
        local path = ('%s/%d%s.pth'):format(folder, protocol, kind)
        local d = dlv3.load(path)
        t.eq({d.before:totable(), d.after:totable(), d.list[2]}, {{0, 1, 2}, {0, 1, 2, 3}, 7})
        for name, class in pairs(classes) do
          t.ok(tostring(d.extra[name]):find('an object of the class .*' .. class),
               name .. ': ' .. tostring(d.extra[name]))
        end
        for name, v in dict.items(d.extra) do
          local path_text, plain = name == 'path' and type(v) == 'string', name == 'by colour'
          if not path_text and not plain then
            t.ok(require 'dlv3.io.opaque'.is(v), name)
            t.error(function() return v.field end, 'an object of the class .* can not be used: .*in PyTorch, save '
                                                   .. 'it as')
            t.error(function() return v + 1 end, 'can not be used')
            t.error(function() return v < v end, 'can not be used')
            t.error(function() v.x = 1 end, 'can not be used')
            t.error(function() v() end, 'can not be used')
            t.error(function() return dlv3.items(v) end, 'can not be used')
            count = count + 1
          end
        end
        t.eq(d.extra['by colour'].plain, 2)
        t.eq(dict.size(d.extra['by colour']), 2)
        t.error(function() dlv3.save(folder .. '/again.pth', d) end,
                'extra.array is an object of the class numpy.ndarray, of which nothing was read: take it out')
        t.error(function() require 'dlv3.io.json'.encode{d.extra.array} end,
                'JSON: an object of the class numpy.ndarray can not be written')
      end
    end
    t.ok(count > 150, count .. ' values')
    -- a whole model where weights are expected says which lines convert it
    local d = dlv3.load(folder .. '/4zip.pth')
    local ok, message = pcall(require 'dlv3.checkpoint'.unwrap, dict.from{{'epoch', 3}, {'model', d.extra.layer}},
                              'x.pth')
    t.ok(not ok and message:find("x.pth: holds no weights: its 'model' is an object of the class "
                                 .. "torch.nn.modules.linear.Linear; if it is a model, in PyTorch", 1, true), message)
    t.ok(message:find("model = torch.load('x.pth', map_location='cpu', weights_only=False)['model']", 1, true), message)
  end)

  t.case('pickles of plain Python values, protocols 0 to 5', function()
    local python, reason = t.python 'pickle'
    if not python then t.skip(reason) end
    local folder = t.folder()
    write(folder .. '/make.py', [==[
import pickle, sys, collections, pathlib
v = {'i': [0, 1, 255, 256, 65536, -1, 2**31, -2**31, 2**53], 'f': [0.5, -1e300, float('inf')],
     's': ['', "it's \\ \n x\\x41", 'gr\u00fcn \U0001f600', 'a' * 300],
     't': (1, (2,), (3, 4, 5, 6)), 'b': [True, False], 'by': b'\x00\xff', 'set': {1}, 'fs': frozenset([2]),
     'od': collections.OrderedDict(a=1), 'dd': collections.defaultdict(list, b=2),
     'p': pathlib.PosixPath('/a/b'), ('k', 1): 1, None: 2, 2.5: 3}
for p in range(6):
    open('%s/%d' % (sys.argv[1], p), 'wb').write(pickle.dumps(v, p))
]==])
    local output, status = t.run(python .. ' ' .. folder .. '/make.py ' .. folder)
    t.eq(status, 0, output)
    local session = require 'dlv3.io.torch_file'.session()
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
