-- test_damaged_files.lua - weight files that are damaged, absurd or made to do harm: the message,
-- and what it costs to get there.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local zip = require 'dlv3.io.zip'

return function(t)
  local files = dofile(t.directory .. '/weight_files.lua')
  local write, slurp, pth, tensor_pickle, check_values = files.write, files.slurp, files.pth, files.tensor_pickle,
      files.check_values
  local golden = t.directory .. '/golden/'

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
    t.error(function() dlv3.load(nil) end, "load: expected a file's name, got nothing")
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
    refused('}X\1\0\0\0acsubprocess\nPopen\n)Rs.', 'refuses subprocess.Popen.*may be an attack; delete it')
    refused('cbuiltins\ngetattr\n.', 'holds an object of the class builtins.getattr')
    refused('ctorchvision.models.resnet\nResNet\n)\129.',
            'holds an object of the class torchvision.models.resnet.ResNet, .*model.state_dict%(%)')
    refused('c__builtin__\n__import__\n.', 'refuses __builtin__.__import__')
    refused('ctorch._utils\n_rebuild_tensor_v2\n.', 'holds an object of the class torch._utils._rebuild_tensor_v2')
    refused('\130\1.', 'an extension registry')
    t.eq(system.kind(mark), nil)
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
    for _, v in ipairs{'\127\240\0\0\0\0\0\0', '\255\240\0\0\0\0\0\0'} do
      t.eq(math.abs(bytes.number(v:reverse(), 'f64')), math.huge)
    end
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
    refused('K\1N)R.', 'it calls None')
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

  t.case('no message has bytes that a terminal would obey', function()
    local F = require 'dlv3.core.ffi'
    for _, case in ipairs{{'plain', 'plain'}, {'gr\195\188n \240\159\152\128', 'gr\195\188n \240\159\152\128'},
                          {'a\27[31mb', 'a\\x1b[31mb'}, {'a\0b\r\127', 'a\\x00b\\x0d\\x7f'},
                          {'\194\155', '\\xc2\\x9b'}, {'\255\192\175\195', '\\xff\\xc0\\xaf\\xc3'},
                          {'\237\160\128', '\\xed\\xa0\\x80'}, {'\226\128\174x', '\\xe2\\x80\\xaex'},
                          {'two\nlines\t', 'two\nlines\t'}, {'\244\144\128\128', '\\xf4\\x90\\x80\\x80'},
                          {'\226\130\172', '\226\130\172'},
                          {'\195\169\169', '\195\169\\xa9'}, {'\240\159\152', '\\xf0\\x9f\\x98'}} do
      t.eq(F.printable(case[1]), case[2])
      t.eq(F.printable(case[2]), case[2], 'a second time changes nothing')
    end
    t.eq(bytes.shown 'two\nlines', 'two\\nlines')
    local out = F.new('char[8]')
    t.eq({tonumber(F.C.dlv3_printable(out, 8, 'abc\27\27', 5)), F.string(out)}, {7, 'abc\\x1b'})
    -- C's messages, Lua's, and reports
    local folder, evil = t.folder(), '\27]0;owned\7\27[2J\0'
    local function clean(message)
      t.ok(not tostring(message):find '[%z\1-\8\11-\31\127]'
           and tostring(message):find('\\x1b]0;owned\\x07\\x1b[2J', 1, true), ('%q'):format(tostring(message)))
    end
    clean(select(2, pcall(dlv3.load, folder .. '/' .. evil:sub(1, -2))))
    clean(select(2, pcall(F.raise, evil)))
    local checkpoint = require 'dlv3.checkpoint'
    local model = require 'dlv3.nn'.Linear(2, 2)
    local weights = dict.from{{'weight', dlv3.randn{2, 2}}, {evil, dlv3.randn{1}}}
    clean(checkpoint.load_weights(model, weights))
    clean(select(2, pcall(checkpoint.load_weights, model, dict.from{{evil, dlv3.randn{1}}})))
    clean(select(2, pcall(checkpoint.load_weights, model, dict.from{{evil, 3}})))
    clean(select(2, pcall(model.load_state_dict, model, weights)))
    clean(weights)
    local path = folder .. '/x.pth'
    dlv3.save(path, {model = weights, optimizer = {}, epoch = evil, next_epoch = 1})
    clean(select(2, pcall(require 'dlv3.train'.load, path)))
    pth(path, 'c' .. evil .. '\nname\n)R.')
    clean(select(2, pcall(dlv3.load, path)))
    local header = '{"' .. evil:gsub('.', function(c) return ('\\u%04x'):format(c:byte()) end)
        .. '":{"dtype":"F99","shape":[],"data_offsets":[0,0]}}'
    clean(select(2, pcall(dlv3.load, write(folder .. '/x.safetensors', bytes.le64(#header) .. header))))
  end)

  t.case('small files take little memory and time, whatever they say', function()
    local folder, binary = t.folder(), require('dlv3.host').executable
    write(folder .. '/load.lua', [==[
local dlv3, system = require 'dlv3', require 'dlv3.os'
local base, begin = system.peak_memory(), dlv3.now()
local ok, result = pcall(dlv3.load, arg[1])
local bytes = system.peak_memory() - base
print(('%s %.0f MiB %.1f s'):format(ok and 'fine' or result, bytes / 2 ^ 20, dlv3.now() - begin))
]==])
    -- mebibytes: what was measured, and half of it again
    local function loaded(path, pattern, mebibytes)
      local output, status = t.run(('%s %s/load.lua %s'):format(binary, folder, path))
      local used, seconds = output:match '(%d+) MiB (%S+) s\n$'
      t.ok(status == 0 and output:find(pattern), output)
      t.ok(tonumber(used) < mebibytes and tonumber(seconds) < 10, output)
    end
    local function safetensors(n)
      local entries = {}
      for i = 1, n do entries[i] = ('"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'):format(i) end
      local header = '{' .. table.concat(entries, ',') .. '}'
      return write(folder .. '/many.safetensors', bytes.le64(#header) .. header)
    end
    loaded(safetensors(50000), 'fine', 180)
    loaded(safetensors(300000), 'many.safetensors: JSON: too many values: .*split the file', 180)
    local header = '{"__metadata__":[' .. ('{},'):rep(2000000) .. '0]}'
    loaded(write(folder .. '/objects.safetensors', bytes.le64(#header) .. header), 'JSON: too many values', 150)
    loaded(pth(folder .. '/dicts.pth', '](' .. ('}'):rep(7000000) .. 'e.'), 'more than 8000000 objects', 400)
    loaded(pth(folder .. '/opaque.pth', '](ca\nb\nq\0' .. ('h\0)R'):rep(2000000) .. 'e.'), 'more than 8000000 objects',
           400)
    loaded(pth(folder .. '/lists.pth', '](' .. ('](e'):rep(2600000) .. 'e.'), 'fine', 650)
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
    refused(tensor_pickle(4, 0, {2 ^ 40}, {0}) .. tensor_pickle(4, 0, {5}, {1}) .. '\134',
            'reaches past its storage of 4')
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
    refused(tensor_pickle(2, 0, {2}, {1}, 'ComplexFloatStorage'), 'torch.Tensor %(complex, quantised')
    refused(tensor_pickle(4, 0, {2}, {1}, 'NoStorage'), 'class torch.NoStorage')
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
    for i = 1, 9 do
      archive.entries[i + 2] = {name = 'a/data/' .. i, size = 2000, crc = 0, start = archive.entries[2].start}
    end
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
    refused(st .. 'x', 'the file has %d+ bytes, its tensors end at %d+: it is damaged; copy or download it again')
  end)

  -- CRC-32 bit by bit.
  local function reference_crc(s)
    local bit = require 'bit'
    local crc = -1
    for i = 1, #s do
      crc = bit.bxor(crc, s:byte(i))
      for _ = 1, 8 do crc = bit.bxor(bit.rshift(crc, 1), bit.band(0xEDB88320, -bit.band(crc, 1))) end
    end
    return bit.bnot(crc) % 2 ^ 32
  end

  t.case('the CRC-32 of any number of bytes', function()
    local F = require 'dlv3.core.ffi'
    t.eq(reference_crc '123456789', 0xCBF43926)
    local parts = {}
    for i = 1, 1300 do parts[i] = string.char((i * i * 7 + i) % 256) end
    local text = table.concat(parts)
    local file = bytes.create(t.folder() .. '/crc')
    file:crc()
    for n = 0, 1300, 1 do
      if n < 300 or n % 97 == 0 then
        file:write(text:sub(1, n))
        t.eq(file:crc(), reference_crc(text:sub(1, n)), n)
        file:write(text:sub(1, n)) -- in two pieces
        file:write(text:sub(n + 1, 1300))
        t.eq(file:crc(), reference_crc(text))
      end
    end
    file:write(text:rep(1000))
    local whole = file:crc()
    file:commit()
    file:close()
    local reader = bytes.open(write(t.folder() .. '/long', text:rep(1000)))
    reader:crc()
    reader:skim(0, 1300000)
    t.eq(reader:crc(), whole)
    t.eq(#reader:read(0, 1300000), 1300000) -- by several threads
    t.eq(reader:crc(), whole)
    local x = dlv3.empty({1300000}, {dtype = 'u8'})
    reader:read_tensor(x, 0)
    t.eq(reader:crc(), whole)
    t.eq(F.string(F.cast('char *', runtime.address(x)), 1300000), text:rep(1000))
    reader:close()
  end)

  t.case('tensors of many pieces and of any layout come back', function()
    local path = t.folder() .. '/a.pth'
    local d = dict.from{{'long', dlv3.randn{5000000}}, {'weights', dlv3.randn{300, 70, 3, 3}},
                        {'wide', dlv3.randn{3, 40000, 3, 3}}, {'bools', dlv3.randn{70, 90, 5, 5}:gt(0)},
                        {'half', dlv3.randn{513, 65, 3, 3}:to 'bf16'}, {'one', dlv3.randn{1, 600, 7, 7}}}
    dlv3.save(path, d)
    local e = dlv3.load(path)
    for name, x in dict.items(d) do t.eq(e[name]:tobytes(), x:tobytes(), name) end
  end)

  t.case('a flipped bit is found, wherever it is', function()
    local path, good = t.folder() .. '/x.pth', slurp(golden .. 'files_zip.pth')
    local file = bytes.open(golden .. 'files_zip.pth')
    local bit, n = require 'bit', 0
    for name, member in pairs(zip.members(file)) do
      if name:find '/data' then -- data.pkl and data/0 and so on
        local at = zip.place(file, member)
        for i = at + 1, at + member.size, math.max(1, math.floor(member.size / 13)) do
          write(path, good:sub(1, i - 1) .. string.char(bit.bxor(good:byte(i), 2 ^ (i % 8))) .. good:sub(i + 1))
          t.error(function() dlv3.load(path) end, "x.pth: '[^']*' in it is damaged: expected the CRC%-32 %x+, got "
                                                  .. "%x+: copy or download the file again")
          n = n + 1
        end
      end
    end
    file:close()
    t.ok(n > 100, n .. ' places')
  end)

  -- The archive with 0 for every CRC in its directory: torch.save can be told to compute none
  -- (compute_crc32 = False).
  local function without_crc(archive)
    return (archive:gsub('(PK\1\2' .. ('.'):rep(12) .. ')....', '%1\0\0\0\0'))
  end

  t.case('an archive without CRCs is read', function()
    local s = without_crc(slurp(golden .. 'files_zip.pth'))
    t.ok(s ~= slurp(golden .. 'files_zip.pth'))
    check_values(t, dlv3.load(write(t.folder() .. '/x.pth', s)))
  end)

  -- Any damage gives the values or an error that names the file: no crash, no Lua error from
  -- within.
  t.case('thousands of damaged files', function()
    local folder = t.folder()
    math.randomseed(7)
    local random = math.random
    local rounds = tonumber(os.getenv 'DLV3_FUZZ' or 400)
    for _, name in ipairs {'files_zip.pth', 'files_stream.pth', 'files_tar.pth', 'files.safetensors'} do
      local good = slurp(golden .. name)
      if name:find 'zip' then good = without_crc(good) end -- else there would be little behind the CRC to be tried
      for round = 1, rounds do
        local s = good
        for _ = 1, random(1, 4) do
          local at, kind = random(1, #s), random(1, 6)
          local new = kind == 1 and '' or kind == 2 and ('\255'):rep(random(1, 8))
              or kind == 3 and s:sub(at, at + random(0, 40)):rep(2) or string.char(random(0, 255))
          s = kind == 6 and s:sub(1, at) or s:sub(1, at - 1) .. new
              .. s:sub(kind == 3 and at or at + #new + (kind == 1 and 1 or 0))
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
end
