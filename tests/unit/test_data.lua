-- test_data.lua - data sets, the loader and its transforms, and the scripts check_data and
-- make_shapes.
--
-- Whole samples are compared with tests/golden/images, which Pillow made, and with Pillow itself
-- where it is there.

local dlv3 = require 'dlv3'
local data = require 'dlv3.data'
local image = require 'dlv3.vision.image'

local function read_file(path)
  local file = assert(io.open(path, 'rb'))
  local content = file:read '*a'
  file:close()
  return content
end

local function write_file(path, content)
  local file = assert(io.open(path, 'wb'))
  file:write(content)
  file:close()
end

return function(t)
  local golden = t.directory .. '/golden/images/'
  local scripts = require('dlv3.host').executable .. ' ' .. t.directory .. '/../scripts/'

  -- A small data set of shapes, drawn once.
  local drawn
  local function shapes()
    if not drawn then
      drawn = t.folder()
      local text, status = t.run(scripts .. 'make_shapes.lua --output-dir ' .. drawn
                                 .. ' --train 10 --val 5 --width 64 --height 48')
      t.eq(status, 0, text)
    end
    return drawn
  end

  -- A copy of it to damage.
  local function copy()
    local root = t.folder() .. '/set'
    t.run('cp -r ' .. shapes() .. ' ' .. root)
    return root, root .. '/VOCdevkit/VOC2012'
  end

  -- A data set of one image and mask, n times.
  local function repeated(photo, mask, n) return {size = n, files = function() return photo, mask end} end

  -- All batches of an epoch as text, one each.
  local function epoch_bytes(set, options, e, skip)
    local loader = data.loader(set, options)
    local list = {}
    for batch in loader:epoch(e or 0, {skip = skip}) do
      list[#list + 1] = batch.image:tobytes() .. (batch.target and batch.target:tobytes() or '')
          .. table.concat(batch.indices, ' ')
    end
    loader:close()
    return list
  end

  -- -- VOC's layout -------------------------------------------------------------------------------

  t.case('voc', function()
    local root = shapes()
    local set = data.voc{root = root, split = 'val'}
    t.eq(set.size, 5)
    t.eq(set.ids[1], 'shapes_00011')
    t.eq({set.files(2)}, {root .. '/VOCdevkit/VOC2012/JPEGImages/shapes_00012.jpg',
                          root .. '/VOCdevkit/VOC2012/SegmentationClass/shapes_00012.png'})
    t.eq(set.class_names, {'background', 'disc', 'square', 'triangle', 'star'})
    t.eq(data.voc{root = root .. '/'}.size, 10)
    t.eq({data.voc{root = root, masks = false}.files(1)}, {root .. '/VOCdevkit/VOC2012/JPEGImages/shapes_00001.jpg'})
    t.eq(#data.voc_classes, 21)
  end)

  t.case('voc: the folder', function()
    local root, base = copy()
    local function try(path, pattern, options)
      options = options or {}
      options.root = path
      t.error(function() data.voc(options) end, pattern)
    end
    try(root .. '/VOCdevkit', "/set/VOCdevkit' is one level too deep: give the folder that holds VOCdevkit, '.*/set'$")
    try(base, "VOC2012' is two levels too deep: give the folder that holds VOCdevkit, '.*/set'$")
    try((root:gsub('/set$', '')), "is one level too high: give '.*/set'$")
    try(root .. '/nowhere', "there is no folder '.*/nowhere'")
    try(base .. '/class_names.txt', 'is a file: expected a folder that holds VOCdevkit/VOC2012')
    try(root, "VOCdevkit' has VOC2012 but no VOC2007", {year = 2007})
    try(t.folder(), 'holds no VOCdevkit/VOC2012')
    t.run('mv ' .. root .. '/VOCdevkit ' .. root .. '/other')
    try(root .. '/other', "holds VOC2012 itself; it must lie in a folder called VOCdevkit")
    try(root .. '/other/VOC2012', 'holds the pictures themselves; give a folder in which they are in VOCdevkit/VOC2012')
    t.error(function() data.voc{} end, 'root: expected the folder that holds VOCdevkit, got nothing')
    t.error(function() data.voc{root = root, splitt = 'val'} end,
            "data.voc: no option 'splitt'; did you mean 'split'%?")
  end)

  t.case('voc: the list', function()
    local root, base = copy()
    local lists = base .. '/ImageSets/Segmentation/'
    t.error(function() data.voc{root = root, split = 'trian'} end,
            "there is no list '.*/trian.txt'; did you mean 'train'%? %(there are: train, trainval, val%)")
    write_file(lists .. 'empty.txt', '\n  \n')
    t.error(function() data.voc{root = root, split = 'empty'} end, "the list '.*/empty.txt' is empty")
    write_file(lists .. 'blank.txt', '\239\187\191\n shapes_00001 \r\n\n\nshapes_00002')
    t.eq(data.voc{root = root, split = 'blank'}.ids, {'shapes_00001', 'shapes_00002'})
    write_file(lists .. 'missing.txt', 'shapes_00001\n\nno_such\n')
    t.error(function() data.voc{root = root, split = 'missing'} end,
            "'.*/JPEGImages/no_such.jpg' is missing; line 3 of '.*/missing.txt' asks for it "
            .. '%(and 1 more; scripts/check_data.lua lists them%)')
    t.eq(#data.voc{root = root, split = 'missing', check = false}.missing, 2)
    for _, line in ipairs {'shapes_00001 1', 'no_such.jpg', '/JPEGImages/no_such.jpg',
                           '/JPEGImages/shapes_00001.jpg /Masks/shapes_00001.png'} do
      write_file(lists .. 'odd.txt', '\n' .. line .. '\n')
      t.error(function() data.voc{root = root, split = 'odd'} end,
              "is missing; line 2 of .*/odd.txt' asks for it; a line of a list is an id, or the path of a photo, "
              .. 'or those of a photo and its mask')
    end
    t.ok(t.run(scripts .. 'check_data.lua --splits odd --data-path '
               .. root):find '/Masks/shapes_00001.png is missing; line 2 of the list asks for it; a line of a list is')
    t.run('mv ' .. base .. '/JPEGImages/shapes_00001.jpg ' .. base .. '/JPEGImages/shapes_00001.PNG')
    t.ok(data.voc{root = root}.files(1):find 'shapes_00001.PNG$')
  end)

  -- id, photo and mask of the first sample of a list with this content.
  local function first_of(root, base, content)
    write_file(base .. '/ImageSets/Segmentation/own.txt', content)
    local set = data.voc{root = root, split = 'own'}
    local photo, mask = set.files(1)
    return {set.size, set.ids[1], photo, mask}
  end

  t.case('voc: lists in other encodings and with other line ends', function()
    local root, base = copy()
    local plain = first_of(root, base, 'shapes_00001\nshapes_00002\n')
    t.eq({plain[1], plain[2]}, {2, 'shapes_00001'})
    local function utf16(text, big) return (text:gsub('.', big and '\0%0' or '%0\0')) end
    for name, content in pairs {
      cr = 'shapes_00001\rshapes_00002\r', crlf = 'shapes_00001\r\nshapes_00002\r\n',
      bom = '\239\187\191shapes_00001\nshapes_00002', blank = '\n\n \t\nshapes_00001 \n\r\n\n shapes_00002\n\n',
      little = '\255\254' .. utf16 'shapes_00001\r\nshapes_00002\r\n',
      big = '\254\255' .. utf16('shapes_00001\nshapes_00002', true),
      little_without_mark = utf16 'shapes_00001\nshapes_00002\n',
      big_without_mark = utf16('shapes_00001\nshapes_00002\n', true),
      odd_length = '\255\254' .. utf16 'shapes_00001\nshapes_00002\n' .. 'x',
    } do t.eq(first_of(root, base, content), plain, name) end
    t.run(('cp %s/JPEGImages/shapes_00001.jpg %s/JPEGImages/é中😀.jpg; cp %s/SegmentationClass/shapes_00001.png '
           .. '%s/SegmentationClass/é中😀.png'):format(base, base, base, base))
    t.eq(first_of(root, base, '\255\254\233\0\45\78\61\216\0\222')[2], 'é中😀')
    write_file(base .. '/class_names.txt', '\255\254' .. utf16 'background\r\nx\r\n')
    t.eq(data.voc{root = root}.class_names, {'background', 'x'})
  end)

  t.case('voc: lists of paths', function()
    local root, base = copy()
    local plain = first_of(root, base, 'shapes_00001\n')
    for _, line in ipairs {
      'shapes_00001.jpg', 'JPEGImages/shapes_00001', '/JPEGImages/shapes_00001.jpg', './JPEGImages/shapes_00001.jpg',
      'JPEGImages\\shapes_00001.jpg', 'VOCdevkit/VOC2012/JPEGImages/shapes_00001.jpg',
      'VOC2012/JPEGImages/shapes_00001.jpg', plain[3],
      '/JPEGImages/shapes_00001.jpg /SegmentationClass/shapes_00001.png',
      'JPEGImages/shapes_00001.jpg\tSegmentationClass/shapes_00001.png',
      'shapes_00001.jpg shapes_00001.png', plain[3] .. ' ' .. plain[4],
    } do t.eq(first_of(root, base, line .. '\n'), plain, line) end
    -- masks in a folder of their own, photos outside of the data, upper case, an id with a folder
    -- or a space
    t.run(('cp -r %s/SegmentationClass %s/SegmentationClassAug'):format(base, base))
    t.eq(first_of(root, base, '/JPEGImages/shapes_00001.jpg /SegmentationClassAug/shapes_00001.png')[4],
         base .. '/SegmentationClassAug/shapes_00001.png')
    local outside = t.folder() .. '/photo one.jpg'
    t.run(('cp %s "%s"; cp %s "%s/SegmentationClass/photo one.png"'):format(plain[3], outside, plain[4], base))
    t.eq(first_of(root, base, outside), {1, 'photo one', outside, base .. '/SegmentationClass/photo one.png'})
    t.run(('mkdir %s/JPEGImages/a %s/SegmentationClass/a; cp %s %s/JPEGImages/a/b.PNG; cp %s '
           .. '%s/SegmentationClass/a/b.png'):format(base, base, plain[3], base, plain[4], base))
    t.eq(first_of(root, base, 'a/b'), {1, 'a/b', base .. '/JPEGImages/a/b.PNG', base .. '/SegmentationClass/a/b.png'})
    t.run(('mv %s %s'):format(plain[4], plain[4]:gsub('png$', 'PNG')))
    t.eq(first_of(root, base, 'shapes_00001')[4], (plain[4]:gsub('png$', 'PNG')))
  end)

  t.case('voc: control characters of a list are shown, not obeyed', function()
    local root, base = copy()
    write_file(base .. '/ImageSets/Segmentation/odd.txt', 'shapes_00001\0\27[31m\n')
    t.error(function() data.voc{root = root, split = 'odd'} end,
            "'.*/JPEGImages/shapes_00001\\x00\\x1b%[31m.jpg' is missing; line 1")
    write_file(base .. '/ImageSets/Segmentation/odd.txt', 'shapes_00001\nshapes\27[2Jx\nshapes\27[2Jx\n')
    local output = t.run(scripts .. 'check_data.lua --num-classes 4 --splits odd --data-path ' .. root)
    t.ok(output:find('shapes\\x1b[2Jx', 1, true) and not output:find '\27', output)
    write_file(base .. '/ImageSets/Segmentation/odd.txt', '\128\0\1\2') -- no text at all
    t.error(function() data.voc{root = root, split = 'odd'} end, 'is missing; line 1')
    t.error(function() data.voc{root = root, split = 'JPEG'} end, 'there is no list')
  end)

  t.case('a million ids take two seconds and 150 MB', function()
    if dofile(t.directory .. '/gpu.lua')(t).sanitized then t.skip 'sanitizers take memory and time' end
    local root, base = copy()
    write_file(base .. '/ImageSets/Segmentation/million.txt',
               (table.concat(data.voc{root = root}.ids, '\r\n') .. '\r\n'):rep(100000))
    local output, status = t.run(([[%s -e 'local data, begin = data, dlv3.now()
      local set = data.voc{root = "%s", split = "million"}
      local loader = data.loader(set, {train = true, batch_size = 4, base_size = 32, crop_size = 32, workers = 1})
      local batch = loader:epoch(0)()
      print(set.size, #batch.indices, dlv3.now() - begin, require "dlv3.os".peak_memory() / 1e6)' </dev/null]]):format(
      require('dlv3.host').executable, root))
    t.eq(status, 0, output)
    local size, n, seconds, megabytes = output:match '(%d+)%s(%d+)%s(%S+)%s(%S+)'
    t.eq({size, n}, {'1000000', '4'})
    t.ok(tonumber(megabytes) < 150, output)
    t.ok(tonumber(seconds) < 2, output)
  end)

  t.case('voc: masks in capitals, and files of other kinds are named', function()
    local root, base = copy()
    local masks, photos = base .. '/SegmentationClass/shapes_0000', base .. '/JPEGImages/shapes_0000'
    t.run(('mv %s1.png %s1.PNG'):format(masks, masks))
    t.ok(select(2, data.voc{root = root}.files(1)):find 'shapes_00001.PNG$')
    t.ok(select(2, data.voc{root = root}.files(2)):find 'shapes_00002.png$')
    t.eq(#epoch_bytes(data.voc{root = root}, {base_size = 40}), 3)
    local function expect(pattern)
      t.error(function() data.voc{root = root} end, pattern)
      local text = t.run(scripts .. 'check_data.lua --splits train --data-path ' .. root)
      t.ok(text:find "is missing; line %d of the list asks for it; '[sS]hapes_0000", text)
    end
    t.run(('mv %s2.png %s2.bmp && touch %s/._shapes_00002.png'):format(masks, masks, base .. '/SegmentationClass'))
    expect("shapes_00002.png' is missing; line 2 of .*; 'shapes_00002.bmp' is there: PNG files are read; convert "
           .. "it, with Pillow: Image.open%('shapes_00002.bmp'%).save%('shapes_00002.png'%)")
    t.run(('mv %s2.bmp %s2.jpg'):format(masks, masks))
    expect "'shapes_00002.jpg' is there: a JPEG can not be a mask, .* save the masks as PNG"
    t.run(('mv %s2.jpg %s2.png && mv %s3.jpg %s3.tif'):format(masks, masks, photos, photos))
    expect "shapes_00003.jpg' is missing; .*; 'shapes_00003.tif' is there: JPEG and PNG files are read; convert it"
    t.run(('mv %s3.tif %s/Shapes_00003.jpg'):format(photos, base .. '/JPEGImages'))
    expect "'Shapes_00003.jpg' is there: rename it or change the list, upper and lower case must match"
  end)

  -- -- Samples ------------------------------------------------------------------------------------

  t.case('evaluation: what Pillow and the reference make', function()
    local photo, mask = golden .. '420.jpg', golden .. 'palette8.png'
    local loader = data.loader(repeated(photo, mask, 1), {batch_size = 1, base_size = 30, workers = 1})
    local expected, n = read_file(golden .. 'expected.bin'), 0
    for batch in loader:epoch() do
      for line in io.lines(golden .. 'index.txt') do
        local kind, at, bytes = line:match '^(eval_%a+) sample (%d+) (%d+) 30 48$'
        if kind then
          n = n + 1
          t.ok((kind == 'eval_image' and batch.image or batch.target):tobytes() == expected:sub(at + 1, at + bytes),
               kind)
        end
      end
    end
    t.eq(n, 2)
  end)

  t.case('training: what Pillow and the reference make', function()
    local loader = data.loader(repeated(golden .. '420.jpg', golden .. 'palette8.png', 6),
      {batch_size = 6, train = true, shuffle = false, base_size = 24, crop_size = 20, seed = 5, workers = 2,
       num_classes = 11})
    local expected, n = read_file(golden .. 'expected.bin'), 0
    for batch in loader:epoch(3) do
      for line in io.lines(golden .. 'index.txt') do
        local kind, at, bytes, i = line:match '^(train_%a+) sample%d+ (%d+) (%d+) (%d+)$'
        if kind then
          n = n + 1
          local x = (kind == 'train_image' and batch.image or batch.target):narrow(1, i + 1, 1)
          t.ok(x:tobytes() == expected:sub(at + 1, at + bytes), kind .. ' ' .. i)
        end
      end
    end
    t.eq(n, 12)
  end)

  t.case('training: Pillow on a photo', function()
    local python, reason = t.python('PIL', 'numpy')
    if not python then t.skip(reason) end
    local set, out = data.voc{root = shapes()}, t.folder() .. '/out'
    local photo, mask = set.files(1)
    local text, status = t.run(('%s -B %s/golden/pillow_oracle.py train %s %s %s 11 2 0 15 50 40'):format(
        python, t.directory, out, photo, mask))
    t.eq(status, 0, text)
    local expected, at, n = read_file(out), 1, 40 * 40
    local loader = data.loader(repeated(photo, mask, 16),
                               {batch_size = 16, train = true, shuffle = false, base_size = 50, crop_size = 40,
                                seed = 11})
    for batch in loader:epoch(2) do
      for i = 1, 16 do
        t.ok(batch.image:narrow(1, i, 1):tobytes() == expected:sub(at, at + 12 * n - 1), 'image ' .. i)
        t.ok(batch.target:narrow(1, i, 1):tobytes() == expected:sub(at + 12 * n, at + 13 * n - 1), 'mask ' .. i)
        at = at + 13 * n
      end
    end
  end)

  t.case('a batch of several sizes is padded at the right and bottom', function()
    local set = {size = 2, files = function(i) return golden .. (i == 1 and '420.jpg' or 'orient1.jpg'),
        golden .. 'palette8.png' end}
    local tall = dlv3.zeros({3, 30, 10}, {dtype = 'u8'})
    local mixed = {size = 2, get = function(i)
      if i == 1 then return set.files(1) end
      return tall, dlv3.full({30, 10}, 7, {dtype = 'u8'})
    end}
    local loader = data.loader(mixed, {batch_size = 2, base_size = 0})
    for batch in loader:epoch() do
      t.eq(batch.image:size(), {2, 3, 30, 37})
      t.eq(batch.target:size(), {2, 30, 37})
      t.eq(batch.image:narrow(1, 1, 1):narrow(3, 1, 23), image.normalize(image.read(golden .. '420.jpg')))
      t.eq(batch.image:narrow(1, 1, 1):narrow(3, 24, 7):abs():max():item(), 0)
      t.eq(batch.target[1]:narrow(1, 24, 7):to('f32'):min():item(), 255)
      t.eq(batch.target[2]:narrow(2, 1, 10):to('f32'):max():item(), 7)
      t.eq(batch.target[2]:narrow(2, 11, 27):to('f32'):min():item(), 255)
    end
  end)

  -- -- Batches do not depend on how they were made ------------------------------------------------

  t.case('equal for 1 and 8 workers, for a resumed run, for the same seed', function()
    local set = data.voc{root = shapes()}
    local function options(workers, seed)
      return {batch_size = 3, train = true, workers = workers, seed = seed or 1, base_size = 48, crop_size = 40}
    end
    local one = epoch_bytes(set, options(1), 4)
    t.eq(#one, 4)
    t.ok(table.concat(one) == table.concat(epoch_bytes(set, options(8), 4)), '8 workers')
    local resumed = epoch_bytes(set, options(2), 4, 2)
    t.eq(#resumed, 2)
    t.ok(resumed[1] == one[3] and resumed[2] == one[4], 'resumed')
    t.eq(epoch_bytes(set, options(2), 4, 4), {})
    t.ok(one[1] ~= epoch_bytes(set, options(2), 5)[1], 'another epoch')
    t.ok(one[1] ~= epoch_bytes(set, options(2, 2), 4)[1], 'another seed')
    -- an epoch left in the middle does not matter
    local loader = data.loader(set, options(3))
    loader:epoch(0)()
    local first
    for batch in loader:epoch(4) do
      first = first or batch.image:tobytes() .. batch.target:tobytes() .. table.concat(batch.indices, ' ')
    end
    t.ok(first == one[1], 'after another epoch')
  end)

  t.case('sets by files, by get with paths and by get with tensors give the same batches', function()
    local set = data.voc{root = shapes()}
    local options = {batch_size = 4, train = true, seed = 9, base_size = 40, crop_size = 48, workers = 2,
                     num_classes = 5}
    local a = table.concat(epoch_bytes(set, options))
    t.ok(a == table.concat(epoch_bytes({size = set.size, get = set.files}, options)), 'paths')
    local tensors = {size = set.size, get = function(i)
      local photo, mask = set.files(i)
      return image.read(photo, {orient = false}), image.read_mask(mask)
    end}
    t.ok(a == table.concat(epoch_bytes(tensors, options)), 'tensors')
  end)

  t.case('what a loader says of itself', function()
    local set = data.voc{root = shapes()}
    local loader = data.loader(set, {batch_size = 4, train = true, base_size = 40, crop_size = 32, precision = 'bf16'})
    t.eq(#loader, 3)
    t.eq(loader:batches(), 3)
    t.eq(tostring(loader), 'data.loader: 10 samples, 3 batches of 4')
    local seen, sizes = {}, {}
    for batch in loader:epoch(0) do
      sizes[#sizes + 1] = batch.image:size(1)
      t.eq(batch.image.dtype, 'bf16')
      t.eq(batch.target.dtype, 'u8')
      t.eq(#batch.indices, batch.image:size(1))
      for _, i in ipairs(batch.indices) do seen[i] = true end
    end
    t.eq(sizes, {4, 4, 2})
    t.eq(#seen, 10)
    t.eq(#data.loader(set, {batch_size = 4, drop_last = true}), 2)
    t.eq(#epoch_bytes(set, {batch_size = 4, drop_last = true, base_size = 40}), 2)
    local photos = data.loader(data.voc{root = shapes(), masks = false}, {batch_size = 10, base_size = 20})
    for batch in photos:epoch() do t.eq({batch.target, batch.image:size()}, {nil, {10, 3, 20, 26}}) end
    local order = data.permutation(10, 3, 1)
    t.eq(order, data.permutation(10, 3, 1))
    table.sort(order)
    t.eq(order, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
    t.eq(data.permutation(0), {})
  end)

  t.case('ended at any time', function()
    local set = data.voc{root = shapes()}
    for n = 0, 6 do
      local loader = data.loader(set, {batch_size = 2, workers = 4, train = true, base_size = 200, crop_size = 100,
                                       ahead = 3})
      local next_batch = loader:epoch(n)
      for _ = 1, n % 4 do next_batch() end
      if n % 2 == 0 then
        loader:close()
        loader:close()
        t.error(next_batch, 'another epoch of this loader has begun, or it was closed')
        t.error(function() loader:epoch(0) end, 'this loader is closed')
      end
    end
    local loader = data.loader(set, {base_size = 20})
    local old = loader:epoch(0)
    loader:epoch(1)
    t.error(old, 'another epoch of this loader has begun')
  end)

  t.case('a get that fails once can be asked again', function()
    local x, failed = dlv3.zeros({3, 8, 8}, {dtype = 'u8'}), false
    local set = {size = 8, get = function(i)
      if i == 6 and not failed then
        failed = true
        error 'once'
      end
      return x:add(i):to('u8')
    end}
    local next_batch = data.loader(set, {batch_size = 4, base_size = 0, mean = {0, 0, 0}, std = {1, 1, 1},
                                         workers = 1}):epoch(0)
    t.error(next_batch, 'once')
    for first = 1, 5, 4 do
      local batch = next_batch()
      t.close(batch.image:narrow(2, 1, 1):narrow(3, 1, 1):narrow(4, 1, 1):reshape(4) * 255,
              {first, first + 1, first + 2, first + 3}, 1e-6)
    end
    t.eq(next_batch(), nil)
  end)

  -- -- Errors -------------------------------------------------------------------------------------

  local function first_error(set, options, pattern)
    options = options or {}
    options.base_size = options.base_size or 40
    return t.error(function() for _ in data.loader(set, options):epoch(0) do end end, pattern)
  end

  t.case('bad files are named', function()
    local photo, mask = golden .. '420.jpg', golden .. 'palette8.png'
    first_error(repeated(photo, mask, 1), {num_classes = 10},
      'palette8.png: label 10 at x 35, y 12 %(counted from 0%); expected 0..9, or 255 for '
      .. 'ignored pixels\n  check the number of classes; scripts/check_data.lua')
    first_error(repeated(photo, mask, 1), {num_classes = 11, ignore_index = 10},
                'label 255 at x 0, y 0 %(counted from 0%); expected 0..10, or 10')
    local folder = t.folder()
    image.write_png(folder .. '/small.png', dlv3.zeros({5, 9}, {dtype = 'u8'}))
    image.write_png(folder .. '/turned.png', dlv3.zeros({37, 23}, {dtype = 'u8'}))
    first_error(repeated(photo, folder .. '/small.png', 1), nil,
                'small.png: the mask is 9x5 pixels but its image .*420.jpg is 37x23 %(width x height%)$')
    first_error(repeated(photo, folder .. '/turned.png', 1), nil,
                'turned.png: the mask is 23x37 .*\n  the photo may have an EXIF orientation')
    write_file(folder .. '/cut.jpg', read_file(photo):sub(1, 700))
    first_error(repeated(folder .. '/cut.jpg', mask, 1), nil, '/cut.jpg: .*JPEG')
    first_error(repeated(folder .. '/none.jpg', mask, 1), nil, '/none.jpg: can not be read: No such file')
    first_error(repeated(photo, golden .. 'rgb.png', 1), nil, 'rgb.png: an RGB mask')
    -- the first bad sample in the order of delivery, whoever finds one first; the batches before it
    -- come
    local set = {size = 6, files = function(i) return photo, i >= 5 and folder .. '/bad' .. i .. '.png' or mask end}
    for _, workers in ipairs {1, 4} do
      local n = 0
      local loader = data.loader(set, {batch_size = 2, workers = workers, base_size = 20})
      t.error(function() for _ in loader:epoch(0) do n = n + 1 end end, '/bad5.png: can not be read')
      t.eq(n, 2)
      t.eq(loader:epoch(0)().indices, {1, 2}) -- and it can be started anew
    end
  end)

  t.case('bad data sets and options', function()
    local set = repeated(golden .. '420.jpg', golden .. 'palette8.png', 3)
    t.error(function() data.loader(set, {batchsize = 3}) end,
            "data.loader: no option 'batchsize'; did you mean 'batch_size'%? %(has: ahead, base_size, batch_size")
    t.error(function() data.loader(set, {base_size = 2 ^ 31}) end,
            'base_size: expected a whole number from 0 to 2147483647, got 2147483648')
    t.error(function() data.loader(set, {batch_size = 0}) end,
            'batch_size: expected a whole number from 1 to 2147483647, got 0')
    t.error(function() data.loader(set, {batch_size = 4, drop_last = true}) end,
            'drop_last leaves no batch: the data set has 3 samples, a batch 4')
    t.error(function() data.loader(set, {workers = 1000}) end, 'workers must be within 1..256, got 1000')
    t.error(function() data.loader(set, {ignore_index = 300}) end, 'ignore_index must be within 0..255')
    t.error(function() data.loader(set, {std = {1, 0, 1}}) end, 'std must be above 0')
    t.error(function() data.loader(set, {precision = 'f23'}) end,
            "precision: expected one of f32, bf16, f16, got 'f23'; did you mean")
    t.error(function() data.loader(set, {flip = 'yes'}) end, "flip: expected a number from 0 to 1, got 'yes'")
    t.error(function() data.loader(set, {seed = -1}) end, 'seed: expected a whole number from 0, got %-1')
    t.error(function() data.loader(set, {train = true, scale = 2}) end, 'scale: expected a list of 2 values, got 2')
    t.error(function() data.loader(set):epoch(0.5) end, 'epoch: expected a whole number from 0, got 0.5')
    t.error(function() data.loader(set, {train = true, scale = {2, 1}}) end,
            'the range of sizes must be within 1.. and not empty, got 1040..520')
    t.error(function() data.loader(set):epoch(0, {skip = 2}) end, 'skip: expected a whole number from 0 to 1, got 2')
    t.error(function() data.loader('train') end, "expected a data set %(a table, as data.voc returns%), got 'train'")
    t.error(function() data.loader{files = print} end,
            "the data set's size: expected a whole number from 1, got nothing")
    t.error(function() data.loader{size = 0, files = print} end,
            "the data set's size: expected a whole number from 1, got 0")
    t.error(function() data.loader{size = 1} end, 'neither files%(i%), which returns paths, nor get%(i%)')
    t.error(function() data.loader{size = 1, files = function() return 1 end} end,
            'files%(1%): expected the path of an image .*got 1 and nothing')
    t.error(function() data.loader{size = 2, files = function(i) return 'a', i == 2 and 'b' or nil end} end,
            'files%(2%) has a mask, those before have none')
    local x = dlv3.zeros({3, 8, 8}, {dtype = 'u8'})
    first_error({size = 1, get = function() return 7 end}, nil,
                'get%(1%): expected the image as a u8 tensor or a path, got 7')
    first_error({size = 1, get = function() end}, nil, 'get%(1%): the image is missing')
    first_error({size = 1, get = function() return x:to('f32') end}, nil, 'get%(1%): expected u8 %[3,h,w%]\n.*f32')
    first_error({size = 1, get = function() return x, x end}, nil, 'get%(1%): expected u8 %[h,w%]')
    first_error({size = 1, get = function() return x, dlv3.zeros({8, 9}, {dtype = 'u8'}) end}, nil,
                'get%(1%): the mask is 9x8 pixels but its image get%(1%) is 8x8')
    first_error({size = 1, get = function() return x, dlv3.full({8, 8}, 3, {dtype = 'u8'}) end}, {num_classes = 2},
                'get%(1%): label 3 at x 0, y 0')
    first_error({size = 2, get = function(i) return x, i == 1 and x[1] or nil end}, nil,
                'get%(1%) and get%(2%): one has a mask and the other has none')
    first_error({size = 1, get = function() error('my own error') end}, nil, 'my own error')
    t.error(function() data.permutation(-1) end, 'permutation: n: expected a whole number from 0, got %-1')
  end)

  -- -- Scripts ------------------------------------------------------------------------------------

  t.case('make_shapes draws the same for the same seed', function()
    local again, other = t.folder(), t.folder()
    t.run(scripts .. 'make_shapes.lua --output-dir ' .. again .. ' --train 10 --val 5 --width 64 --height 48')
    t.eq({t.run('diff -r ' .. shapes() .. ' ' .. again)}, {'', 0})
    t.run(scripts .. 'make_shapes.lua --output-dir ' .. other .. ' --train 10 --val 5 --width 64 --height 48 --seed 2')
    local _, status = t.run('diff -rq ' .. again .. ' ' .. other)
    t.eq(status, 1)
  end)

  t.case('check_data on a good set', function()
    local text, status = t.run(scripts .. 'check_data.lua --num-classes 4 --data-path ' .. shapes())
    t.eq(status, 0, text)
    t.ok(text:find('train.txt: 10 samples', 1, true) and text:find('no problems\n$'), text)
    local pixels = 0
    for n in text:gmatch '\n%s+%d+  [%a() ]-%s+([%d,]+)' do pixels = pixels + tonumber((n:gsub(',', ''))) end
    t.eq(pixels, 15 * 64 * 48)
  end)

  t.case('check_data lists every problem', function()
    local root, base = copy()
    local masks, photos = base .. '/SegmentationClass/', base .. '/JPEGImages/'
    local bad = dlv3.zeros({48, 64}, {dtype = 'u8'})
    bad[{3, 11}] = 77
    image.write_png(masks .. 'shapes_00001.png', bad)
    image.write_png(masks .. 'shapes_00002.png', dlv3.zeros({9, 9}, {dtype = 'u8'}))
    image.write_png(masks .. 'shapes_00003.png', image.read(photos .. 'shapes_00003.jpg'))
    t.run('rm ' .. photos .. 'shapes_00004.jpg')
    write_file(photos .. 'shapes_00005.jpg', read_file(photos .. 'shapes_00005.jpg'):sub(1, 600))
    image.write_png(masks .. 'shapes_00006.png', dlv3.full({48, 64}, 255, {dtype = 'u8'}))
    write_file(base .. '/ImageSets/Segmentation/val.txt', 'shapes_00011\nshapes_00011\nshapes_00007\n')
    write_file(base .. '/class_names.txt', 'background\ndisc\nsquare\ntriangle\nstar\nmoon\n')
    local text, status = t.run(scripts .. 'check_data.lua --num-classes 5 --data-path ' .. root)
    t.eq(status, 1)
    for _, pattern in ipairs {
      'shapes_00001.png: label 77 %(1 pixels, the first at x 10, y 2%); labels are 0..5 and 255',
      'shapes_00002.png: the mask is 9x9 pixels but its photo 64x48',
      'shapes_00003.png: an RGB mask: colours are .* numbers; a mask',
      'shapes_00004.jpg is missing; line 4 of the list', 'shapes_00005.jpg: .*JPEG',
      "'shapes_00011' is in the list twice",
      "note: 'shapes_00007' is in train too", 'note: no mask has label 5 %(moon%)', 'note: in 1 mask no pixel counts',
      '   77  %(outside the classes%)', '\n6 problems\n$',
    } do t.ok(text:find(pattern), pattern .. ' is not in\n' .. text) end
    text, status = t.run(scripts .. 'check_data.lua --data-path ' .. root .. '/VOCdevkit')
    t.eq(status, 1)
    t.ok(text:find 'is one level too deep', text)
  end)

  t.case('check_data: masks of 0 and 255, and photos that are stored turned', function()
    local root, base = copy()
    local lists = base .. '/ImageSets/Segmentation/'
    t.run('rm ' .. base .. '/class_names.txt')
    for i, mask in ipairs {{37, 23}, {23, 37}} do
      local name = '/turned' .. i
      t.run(('cp %sorient6.jpg %s/JPEGImages%s.jpg'):format(golden, base, name))
      local binary = dlv3.zeros(mask, {dtype = 'u8'})
      binary[1] = 255
      image.write_png(base .. '/SegmentationClass' .. name .. '.png', binary)
    end
    write_file(lists .. 'two.txt', 'turned1\nturned2\n')
    local text, status = t.run(scripts .. 'check_data.lua --splits two --num-classes 1 --data-path ' .. root)
    t.eq(status, 1)
    t.ok(text:find('turned1.png: the mask is 23x37 pixels but its photo 37x23 (width x height); the photo is '
                   .. 'stored turned (EXIF or XMP orientation)', 1, true), text)
    t.ok(text:find 'note: 2 photos have an orientation %(EXIF or XMP%)'
         and text:find 'no mask has a class beside the background: they hold 0 and 255', text)
    t.ok(text:find '\n2 problems\n$', text)
    text, status = t.run(scripts .. 'check_data.lua --splits train,two --num-classes 4 --data-path ' .. root)
    t.ok(status == 1 and text:find 'note: 2 masks hold 0 and 255 alone' and text:find '\n1 problem\n$', text)
  end)

  t.case('masks of 255 alone are found before a training, and by check_data', function()
    local look = require 'dlv3.data.look'
    local root, base = copy()
    local set = data.voc{root = root}
    t.eq(look.complaint(set), nil)
    local function paint(ids, value)
      for _, id in ipairs(ids) do
        image.write_png(base .. '/SegmentationClass/' .. id .. '.png', dlv3.full({48, 64}, value, {dtype = 'u8'}))
      end
    end
    paint(set.ids, 255)
    local message, certain = look.complaint(set)
    t.ok(certain and message:find('no pixel counts in the masks of .*/train.txt: all are 255. A mask has the number'),
         message)
    paint({set.ids[3]}, 0)
    message, certain = look.complaint(set)
    t.ok(certain == false and message:find('the masks of .*/train.txt hold no class but the background. A mask has '
                                           .. 'the number'), message)
    paint({set.ids[3]}, 4)
    t.eq(look.complaint(set), nil)
    paint(set.ids, 255)
    paint(data.voc{root = root, split = 'val'}.ids, 255)
    local text, status = t.run(scripts .. 'check_data.lua --num-classes 4 --data-path ' .. root)
    t.eq(status, 1, text)
    t.ok(text:find 'no pixel of any mask counts: all are 255' and text:find '\n1 problem\n$', text)
    text, status = t.run(scripts .. 'train_voc.lua --num-classes 4 --model deeplabv3_mobilenet_v3_large --data-path '
                         .. root .. ' --output-dir ' .. root .. '/out')
    t.ok(status == 1 and text:find 'no pixel counts in the masks of' and not text:find 'Epoch', text)
    -- of many masks some are looked at
    write_file(base .. '/ImageSets/Segmentation/many.txt', (table.concat(set.ids, '\n') .. '\n'):rep(50))
    message, certain = look.complaint(data.voc{root = root, split = 'many'})
    t.ok(not certain and message:find('many.txt %(64 of 500 were looked at%): all are 255'), message)
  end)

  t.case('photos of 12 bits in 16 are found before a training, and said once', function()
    local look = require 'dlv3.data.look'
    local function set_of(name) return {size = 3, files = function() return golden .. name end} end
    t.ok(look.dark_photo(set_of 'dark12.png'):find 'dark12.png: 16 bits a channel, of which only the low 12 are used')
    t.eq(look.dark_photo(set_of 'grey16.png'), nil)
    t.eq(look.dark_photo(set_of 'no_such_photo.png'), nil)
    local root, base = copy()
    t.run(('cd %s/JPEGImages && for f in *.jpg; do rm $f; cp %s ${f%%jpg}png; done'):format(
        base, t.run('realpath ' .. golden .. 'dark12.png'):match '%S+'))
    local text, status = t.run(scripts .. 'train_voc.lua --num-classes 4 --model deeplabv3_mobilenet_v3_large '
                                          .. '--data-path ' .. root .. ' --output-dir ' .. root .. '/out')
    t.ok(status == 1 and text:find 'the mask is', text) -- of another size
    t.eq(select(2, text:gsub('warning: [^\n]*/shapes_%d+.png: 16 bits a channel', '')), 1, text)
  end)

  t.case('a wrong number of class names is an error with both numbers', function()
    local root, base = copy()
    local names = base .. '/class_names.txt'
    local metrics = require 'dlv3.vision.metrics'
    local expected = "class_names.txt: has 4 names, expected 5 (4 classes and the background): one name a line, "
                     .. "background first; the first line must be the background's, it is 'disc'"
    write_file(names, 'disc\nsquare\ntriangle\nstar\n')
    t.error(function() metrics.class_names(data.voc{root = root}, 5) end, (expected:gsub('%p', '%%%0')))
    for _, command in ipairs {'check_data.lua', 'train_voc.lua --model deeplabv3_mobilenet_v3_large --output-dir '
                              .. root .. '/out'} do
      local text, status = t.run(scripts .. command .. ' --num-classes 4 --data-path ' .. root)
      t.eq(status, 1, text)
      t.ok(text:find(expected, 1, true) and not text:find 'Epoch', text)
      t.ok(not text:find '1  disc', text) -- not shifted by one
    end
    write_file(names, 'background\ndisc\nsquare\ntriangle\nstar\nsixth\n')
    t.error(function() metrics.class_names(data.voc{root = root}, 5) end,
            'has 6 names, expected 5 %(4 classes and the background%): one name a line, background first$')
    t.eq(metrics.class_names(data.voc{root = root}, 6)[6], 'sixth')
    -- VOC's names: for its data, or where nothing says otherwise, which is said
    t.run('rm ' .. names)
    local set = data.voc{root = root}
    t.eq(metrics.class_names(set, 5), nil)
    t.eq({metrics.class_names(set, 21)}, {
      data.voc_classes, 'class names: those of PASCAL VOC, since there are 21 classes and no class_names.txt',
    })
    t.eq({metrics.class_names(nil, 21)}, {metrics.class_names(set, 21)})
    t.eq({metrics.class_names({size = 2, ids = {'2007_000032', '2011_003271'}}, 21)}, {data.voc_classes})
    local text = t.run(scripts .. 'check_data.lua --data-path ' .. root)
    t.ok(text:find 'note: class names: those of PASCAL VOC' and text:find '1  aeroplane', text)
  end)

  -- A copy of the shapes with the first photo cut short, the mask of the second damaged beside its
  -- pixels and a photo that is empty.
  local function with_damage()
    local root, base = copy()
    local photo, mask = base .. '/JPEGImages/shapes_00001.jpg', base .. '/SegmentationClass/shapes_00002.png'
    write_file(photo, read_file(photo):sub(1, -9))
    local bytes = read_file(mask)
    write_file(mask, bytes:sub(1, 33) .. '\0\0\0\1prVtx\0\0\0\0' .. bytes:sub(34))
    write_file(base .. '/JPEGImages/shapes_00010.jpg', '')
    return root
  end

  t.case('damaged files stop a training, or are left out and listed', function()
    local root = with_damage()
    local set = data.voc{root = root}
    first_error(set, nil, 'shapes_00001.jpg: a damaged JPEG: .*\n  %-%-skip%-damaged of train_voc and validate .* '
                          .. 'leaves out damaged files and lists them$')
    for _, workers in ipairs {1, 4} do
      local rest, messages = data.skip_damaged(set, {workers = workers})
      t.eq(rest.size, 7)
      t.eq(rest.ids, {'shapes_00003', 'shapes_00004', 'shapes_00005', 'shapes_00006', 'shapes_00007', 'shapes_00008',
                      'shapes_00009'})
      t.ok(rest.files(1):find 'shapes_00003.jpg$')
      t.eq(#messages, 3)
      for i, pattern in ipairs {'shapes_00001.jpg: a damaged JPEG: [^\n]*$',
                                'shapes_00002.png: a damaged PNG: prVt: CRC error$',
                                'shapes_00010.jpg: the file is empty'} do
        t.ok(messages[i]:find(pattern), messages[i])
      end
      t.eq(#epoch_bytes(rest, {batch_size = 2, base_size = 40}), 4)
    end
    -- other faults are left to the training
    local sound, none = data.skip_damaged(repeated(golden .. '420.jpg', golden .. 'rgb.png', 3))
    t.eq({sound.size, none}, {3, {}})
    local by_get = data.skip_damaged{size = 2, get = function(i) return i == 1
        and root .. '/VOCdevkit/VOC2012/JPEGImages/shapes_00010.jpg' or golden .. '420.jpg' end}
    t.eq({by_get.size, by_get.get(1)}, {1, golden .. '420.jpg'})
    t.error(function() data.skip_damaged(repeated(root .. '/VOCdevkit/VOC2012/JPEGImages/shapes_00010.jpg', nil,
                                                  2)) end, 'all 2 samples are damaged, the first: .*is empty')
  end)

  t.case('--skip-damaged, and check_data on damaged files', function()
    local root = with_damage()
    local train = ('train_voc.lua --quiet --model deeplabv3_mobilenet_v3_large --num-classes 4 --no-aux '
                   .. '--base-size 32 --crop-size 32 -b 4 --epochs 1 --data-path %s --output-dir %s/out')
                  :format(root, root)
    local text, status = t.run(scripts .. train)
    t.ok(status == 1 and text:find '\n  %-%-skip%-damaged of train_voc', text)
    text, status = t.run(scripts .. train .. '2 --skip-damaged')
    t.eq(status, 0, text)
    t.ok(text:find('train.txt: decoding 10 samples to find damaged ones\n3 of 10 samples are damaged and left '
                   .. 'out:\n  %S+shapes_00001.jpg: a damaged JPEG'), text)
    t.ok(text:find '7 training and 5 validation images', text)
    text, status = t.run(('%svalidate.lua --quiet --split train --skip-damaged --data-path %s --weights '
                          .. '%s/out2/last.pth'):format(scripts, root, root))
    t.eq(status, 0, text)
    t.ok(text:find '3 of 10 samples are damaged' and text:find '; 7 images of ', text)
    t.run(('cp %sdark12.png %s/VOCdevkit/VOC2012/JPEGImages/shapes_00003.jpg'):format(golden, root))
    text, status = t.run(('%scheck_data.lua --splits train --num-classes 4 --data-path %s'):format(scripts, root))
    t.eq(status, 1)
    for _, pattern in ipairs {
      'shapes_00001.jpg: a damaged JPEG', 'shapes_00002.png: a damaged PNG', 'shapes_00010.jpg: the file is empty',
      'note: 1 damaged photo can be decoded in part; train_voc and validate leave damaged files out with '
      .. '%-%-skip%-damaged', 'note: 1 photo: 16 bits a channel, of which only the low 12',
      '\n4 problems\n$', -- the photo of 12 bits has another size than its mask
    } do t.ok(text:find(pattern), pattern .. ' is not in\n' .. text) end
  end)

  t.case('epochs without a number follow one another, and switches are true or false', function()
    local set = data.voc{root = shapes(), split = 'train'}
    local loader = data.loader(set, {batch_size = 2, train = true, base_size = 48, crop_size = 32, workers = 1})
    local function order(e)
      local list = {}
      for batch in loader:epoch(e) do list[#list + 1] = table.concat(batch.indices, ' ') end
      return table.concat(list, ' ')
    end
    local first, second = order(), order()
    t.ok(first ~= second)
    t.eq(second, order(1))
    t.eq(order(), order(2))
    t.error(function() loader() end, 'a loader is not an iterator: write for batch in loader:epoch%(e%) do')
    for _, name in ipairs {'train', 'shuffle', 'drop_last'} do
      t.error(function() data.loader(set, {[name] = 'no'}) end, name .. ": expected true or false, got 'no'")
    end
    t.error(function() data.loader(set, {train = true, flip = 3}) end, 'flip: expected a number from 0 to 1, got 3')
  end)
end
