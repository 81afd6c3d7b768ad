-- test_predict.lua - predict on what people's folders hold: no photo is written over, names,
-- damaged files, odd kinds of pictures.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'
local files = require 'dlv3.io.files'
local image = require 'dlv3.vision.image'

return function(t)
  local binary = require('dlv3.host').executable
  local root = t.directory .. '/..'
  local scratch = t.folder()

  -- Random weights with 4 classes: what is painted does not matter here.
  local function weights()
    local path = scratch .. '/weights.pth'
    if not system.kind(path) then
      dlv3.save(path, require 'models'.deeplabv3_mobilenet_v3_large{num_classes = 4, aux = false}:state_dict())
    end
    return path
  end

  local function script(name, arguments, before)
    return t.run(('%s %s %s/scripts/%s.lua %s </dev/null'):format(before or '', binary, root, name, arguments))
  end

  local function predict(arguments, before)
    return script('predict', ('--quiet --base-size 33 --weights %s %s'):format(weights(), arguments), before)
  end

  -- A folder of photos of 20x30 pixels, each of one value.
  local function photos(...)
    local folder = t.folder()
    for i, name in ipairs {...} do
      image.write_png(folder .. '/' .. name, dlv3.full({3, 20, 30}, 100 + i, {dtype = 'u8'}))
    end
    return folder
  end

  local function is_photo(path, i)
    local x = image.read(path)
    t.eq({x:min():item(), x:max():item()}, {100 + i, 100 + i}, path)
  end

  local function list(folder) return (t.run('LC_ALL=C ls -A ' .. folder):gsub('\n', ' ')) end

  -- -- No output replaces an input ----------------------------------------------------------------

  t.case('identity is the file, not the text of its path', function()
    local folder = photos('a.png')
    t.run(('cd %s && mkdir sub && ln -s a.png link.png && ln a.png hard.png && ln -s . here && ln -s nowhere '
           .. 'dangling'):format(folder))
    local a = files.identity(folder .. '/a.png')
    for _, path in ipairs {'link.png', 'hard.png', 'here/a.png', 'sub/../a.png', './/a.png', 'here/here/link.png'} do
      t.eq(files.identity(folder .. '/' .. path), a, path)
    end
    t.ok(files.identity(folder .. '/sub') ~= a)
    local new = files.identity(folder .. '/new/deep.png')
    t.ok(new ~= a)
    for _, path in ipairs {'here/new/deep.png', 'sub/../new//deep.png'} do
      t.eq(files.identity(folder .. '/' .. path), new, path)
    end
    t.ok(files.identity(folder .. '/new/other.png') ~= new)
    t.ok(files.identity(folder .. '/dangling') ~= files.identity(folder .. '/nowhere2'))
    t.eq(files.identity 'no_such_file', files.identity './no_such_file')
    t.error(function() files.identity(('x/'):rep(4096)) end, 'a path has at most 4095 bytes, got 8192')
  end)

  t.case('predict never writes over a photo, whatever the folder is called', function()
    -- a link to the folder
    local folder = photos('a.png', 'b.png')
    t.run(('ln -s %s %s_link'):format(folder, folder))
    local output, status = predict(('--overlay --output-dir %s_link %s'):format(folder, folder))
    t.run(('rm %s_link'):format(folder))
    t.eq(status, 0, output)
    is_photo(folder .. '/a.png', 1)
    is_photo(folder .. '/b.png', 2)
    t.eq(list(folder), 'a.png a_2.png a_2_overlay.png b.png b_2.png b_2_overlay.png ')
    t.ok(output:find('/a.png: its picture is ' .. folder .. '_link/a_2.png, another file has the name', 1, true),
         output)

    -- a stale $PWD, as subprocess.run(cwd=) leaves it
    folder = photos('a.png')
    output, status = t.run(('cd %s && PWD=/tmp %s %s/scripts/predict.lua --quiet --base-size 33 --weights %s '
                            .. '--output-dir %s a.png')
                           :format(folder, binary, t.run('realpath ' .. root):match '%S+', weights(), folder))
    t.eq(status, 0, output)
    is_photo(folder .. '/a.png', 1)
    t.eq(list(folder), 'a.png a_2.png ')

    -- a link in the output folder
    folder = photos('a.png')
    t.run(('mkdir %s/out && ln -s ../a.png %s/out/a.png'):format(folder, folder))
    output, status = predict(('--output-dir %s/out %s/a.png'):format(folder, folder))
    t.eq(status, 0, output)
    is_photo(folder .. '/a.png', 1)
    t.eq(list(folder .. '/out'), 'a.png a_2.png ')

    -- a link in the output folder to a photo that is not predicted, and one that leads nowhere
    folder = photos('a.png', 'b.png')
    t.run(('cd %s && mkdir out && ln -s ../b.png out/a.png && ln -s nowhere out/a_2_overlay.png'):format(folder))
    output, status = predict(('--overlay --output-dir %s/out %s/a.png'):format(folder, folder))
    t.eq(status, 0, output)
    is_photo(folder .. '/b.png', 2)
    t.eq(list(folder .. '/out'), 'a.png a_2_overlay.png a_3.png a_3_overlay.png ')

    -- a photo that has the name of a temporary file
    folder = photos('a.png')
    t.run(('mkdir %s/out && mv %s/a.png %s/out/a.png.part && cp %s/out/a.png.part %s/a.png'):format(
        folder, folder, folder, folder, folder))
    output, status = predict(('--output-dir %s/out %s/a.png %s/out/a.png.part'):format(folder, folder, folder))
    t.eq(status, 0, output)
    is_photo(folder .. '/out/a.png.part', 1)
  end)

  t.case('the other scripts write over no input either', function()
    local folder = t.folder()
    files.save_text(folder .. '/own.lua', 'return function() return 1 end\n')
    t.run(('ln -s own.lua %s/lr.png'):format(folder))
    local output, status = script('plot_lr', ('--schedule %s/own.lua --output %s/lr.png'):format(folder, folder))
    t.eq(status, 1)
    t.ok(output:find("lr.png' would be written over the input '.*own.lua': choose another %-%-output"), output)
    t.eq(io.lines(folder .. '/own.lua')(), 'return function() return 1 end')

    -- make_shapes leaves the data sets of others alone, and draws its own anew
    local draw = ('--train 2 --val 1 --width 16 --height 16 --output-dir %s'):format(folder)
    for _ = 1, 2 do t.eq(select(2, script('make_shapes', draw)), 0) end
    local lists = folder .. '/VOCdevkit/VOC2012/ImageSets/Segmentation/'
    files.save_text(lists .. 'val.txt', 'shapes_00003\n2007_000033\n')
    output, status = script('make_shapes', draw .. ' --seed 3')
    t.eq(status, 1)
    t.ok(output:find("val.txt' belongs to a data set that make_shapes did not draw %(its line '2007_000033'%): "
                     .. "choose another %-%-output%-dir"), output)
    t.eq((t.run('cat ' .. lists .. 'train.txt')), 'shapes_00001\nshapes_00002\n')
    files.save_text(lists .. 'val.txt', 'shapes_00003\n')
    files.save_text(folder .. '/VOCdevkit/VOC2012/class_names.txt', 'background\nleaf\n')
    output, status = script('make_shapes', draw)
    t.ok(status == 1 and output:find "class_names.txt' belongs to a data set .* %(its line 'leaf'%)", output)

    -- a training that starts from the best weights of its own output folder
    files.save_text(folder .. '/VOCdevkit/VOC2012/class_names.txt', 'background\ndisc\nsquare\ntriangle\nstar\n')
    t.run(('mkdir %s/out %s/elsewhere && cp %s %s/out/best.pth && ln -s ../out/best.pth %s/elsewhere/start.pth'):format(
        folder, folder, weights(), folder, folder))
    output, status = script('train_voc', ('--quiet --model deeplabv3_mobilenet_v3_large --num-classes 4 --no-aux '
                            .. '--base-size 16 --crop-size 16 -b 2 --epochs 1 --overwrite --data-path %s --weights '
                               .. '%s/elsewhere/start.pth --output-dir %s/out'):format(folder, folder, folder))
    t.eq(status, 1)
    t.ok(output:find("out/best.pth' would be written over the input '.*start.pth': choose another %-%-output%-dir"),
         output)
    t.eq(select(2, t.run(('cmp %s %s/out/best.pth'):format(weights(), folder))), 0)
    output, status = t.run(('%s bench --no-peers --rows data --data-path %s --output '
                            .. '%s/VOCdevkit/VOC2012/JPEGImages/shapes_00001.jpg'):format(binary, folder, folder))
    t.eq(status, 1)
    t.ok(output:find "shapes_00001.jpg' would be written over the input '.*': choose another %-%-output", output)
  end)

  -- -- Names --------------------------------------------------------------------------------------

  t.case("a system's own files are no photos", function()
    local folder = photos('a.png')
    t.run(('cd %s && echo junk | tee ._a.png Thumbs.db .DS_Store desktop.ini >/dev/null && mkdir out'):format(folder))
    local output, status = predict(('--output-dir %s/out %s'):format(folder, folder))
    t.eq(status, 0, output)
    t.eq(list(folder .. '/out'), 'a.png ')
    t.ok(output:find 'left out: 1 folder %(' and not output:find '%.db' and not output:find '%.ini', output)
    output, status = predict(('--output-dir %s/out %s/*.*'):format(folder, folder))
    t.eq(status, 0, output)
    t.ok(output:find ' 1 photos in', output)
  end)

  t.case('names as long as a file system allows', function()
    local long = 'n' .. ('\195\182'):rep(125) -- 251 bytes, of two a letter
    local folder = photos(long .. '.png', ('x'):rep(246) .. '.png', ('x'):rep(245) .. 'yz.png')
    local output, status = predict(('--overlay --output-dir %s/out %s'):format(folder, folder))
    t.eq(status, 0, output)
    local cut = 'n' .. ('\195\182'):rep(121)
    local expected = {cut .. '.png', cut .. '_overlay.png', ('x'):rep(243) .. '.png', ('x'):rep(243) .. '_overlay.png',
                      ('x'):rep(241) .. '_2.png', ('x'):rep(241) .. '_2_overlay.png'}
    table.sort(expected)
    t.eq(list(folder .. '/out'), table.concat(expected, ' ') .. ' ')
    t.ok(output:find(cut .. '.png, its name is too long', 1, true)
         and output:find('_2.png, another file has the name', 1, true), output)

    -- a file whose name leaves no room for .part, beside one with the same beginning that another
    -- process is writing
    local a, b = folder .. '/' .. ('k'):rep(251) .. '.pth', folder .. '/' .. ('k'):rep(250) .. 'j.pth'
    local bytes = require 'dlv3.io.bytes'
    local writer = bytes.create(a)
    dlv3.save(b, {x = 1})
    writer:write 'whole'
    writer:commit()
    writer:close()
    t.eq(io.lines(a)(), 'whole')
    t.eq(dlv3.load(b).x, 1)
    t.ok(not list(folder):find '%.part')
    t.error(function() dlv3.save(folder .. '/' .. ('k'):rep(256), {x = 1}) end, 'File name too long')
  end)

  -- -- Damaged and odd photos ---------------------------------------------------------------------

  local golden = t.directory .. '/golden/images/'

  -- Cuts the last bytes of a file off.
  local function cut(path, bytes) t.run(('truncate -s -%d %s'):format(bytes, path)) end

  t.case('what is there of a damaged photo is predicted, with a warning', function()
    local folder = t.folder()
    t.run(('cp %s420.jpg %sprogressive.jpg %srgb.png %s'):format(golden, golden, golden, folder))
    cut(folder .. '/420.jpg', 9)
    cut(folder .. '/progressive.jpg', 9)
    local output, status = predict(('--output-dir %s/out %s'):format(folder, folder))
    t.eq(status, 0, output)
    t.ok(output:find('420.jpg: a damaged JPEG: Premature end of JPEG file %(at row 14 of 23%); what could be '
                     .. 'decoded of it is predicted'), output)
    t.ok(output:find ' 3 photos in .*/out/; 2 damaged\n$', output)
    t.eq(list(folder .. '/out'), '420.png progressive.png rgb.png ')
    cut(folder .. '/rgb.png', 400)
    output, status = predict(('--output-dir %s/out %s'):format(folder, folder))
    t.eq(status, 1)
    t.ok(output:find 'rgb.png: a damaged PNG' and output:find '/out/; 1 failed; 2 damaged\n$', output)
  end)

  t.case('photos are predicted as they are seen, whatever says so', function()
    local folder = t.folder()
    t.run(('cp %sxmp6.png %sraw6.png %sxmp6.jpg %s'):format(golden, golden, golden, folder))
    local output, status = predict(('--output-dir %s/out %s/xmp6.png %s/raw6.png %s/xmp6.jpg'):format(
        folder, folder, folder, folder))
    t.eq(status, 0, output)
    for _, name in ipairs {'xmp6', 'raw6', 'xmp6_2'} do
      t.eq(image.read_mask(folder .. '/out/' .. name .. '.png'):size(), {9, 6}, name)
    end
  end)

  t.case('class names of a wrong number are an error, given or found beside the training data', function()
    local folder, data = photos('a.png'), t.folder()
    t.run('mkdir -p ' .. data .. '/VOCdevkit/VOC2012')
    local names = data .. '/VOCdevkit/VOC2012/class_names.txt'
    files.save_text(names, 'disc\nsquare\ntriangle\n')
    local trained = data .. '/trained.pth'
    dlv3.save(trained, {model = dlv3.load(weights()), args = {data_path = data}})
    local expected = names
        .. ': has 3 names, expected 4 (3 classes and the background): one name a line, background first'
    for _, arguments in ipairs {'--class-names ' .. names, '--weights ' .. trained} do
      local output, status = predict(('%s --output-dir %s/out %s/a.png'):format(arguments, folder, folder))
      t.eq(status, 1, output)
      t.ok(output:find(expected, 1, true), output)
      t.eq(system.kind(folder .. '/out'), nil)
    end
    files.save_text(names, 'background\ndisc\nsquare\ntriangle\n')
    t.eq(select(2, predict(('--weights %s --output-dir %s/out %s/a.png'):format(trained, folder, folder))), 0)
  end)

  t.case('12 bits in 16 are said once', function()
    local folder = t.folder()
    t.run(('cp %sgrey16.png %s/a.png && cp %sdark12.png %s/b.png && cp %sdark12.png %s/c.png'):format(
        golden, folder, golden, folder, golden, folder))
    local output, status = predict(('--output-dir %s/out %s'):format(folder, folder))
    t.eq(status, 0, output)
    t.ok(output:find 'b.png: 16 bits a channel, of which only the low 12 are used', output)
    t.eq(select(2, output:gsub('16 bits a channel', '')), 1, output)
  end)

  t.case('out of memory: the option that helps, and the other photos are predicted', function()
    local folder = photos('a.png', 'b.png')
    local hooked = folder .. '/limited.lua'
    files.save_text(hooked, ([[
local dlv3, image = require 'dlv3', require 'dlv3.vision.image'
local read = image.read_with_info
image.read_with_info = function(path, options)
  dlv3.memory_limit(path:find '/a.png' and dlv3.memory().live + 2 ^ 20 or 0)
  return read(path, options)
end
dofile '%s/scripts/predict.lua'
]]):format(root))
    local output, status = t.run(('%s %s --quiet --base-size 300 --weights %s --output-dir %s/out %s/a.png '
                                  .. '%s/b.png </dev/null')
                                 :format(binary, hooked, weights(), folder, folder, folder))
    t.eq(status, 1, output)
    t.ok(output:find 'out of memory' and output:find '\n  a %-%-base%-size below 300 needs less memory'
         and not output:find 'batch', output)
    t.ok(output:find ' 1 photos in .*; 1 failed', output)
    t.eq(image.read_mask(folder .. '/out/b.png'):size(), {20, 30})
  end)

  -- -- Memory -------------------------------------------------------------------------------------

  local sanitized = runtime.is_sanitized() -- they need memory of their own

  -- Runs a script: its peak memory in MiB (0 under sanitizers), and what it prints.
  local function measured(arguments, name)
    local hooked = t.folder() .. '/measured.lua'
    files.save_text(hooked, ([[
local exit = os.exit
os.exit = function(code)
  print(('peak %%d MiB'):format(require 'dlv3.os'.peak_memory() / 2 ^ 20))
  exit(code)
end
dofile '%s/scripts/%s.lua'
os.exit(0)
]]):format(root, name or 'predict'))
    local output, status = t.run(('%s %s --quiet --base-size 33 --weights %s %s </dev/null'):format(
        binary, hooked, weights(), arguments))
    t.eq(status, 0, output)
    return sanitized and 0 or tonumber(output:match 'peak (%d+) MiB'), output
  end

  t.case('many sizes of photos take no more memory than few', function()
    local folder = t.folder()
    for i = 1, 96 do
      local sub = folder .. (i <= 24 and '/few' or '/many')
      if i == 1 or i == 25 then system.make_directory(sub) end
      image.write_png(('%s/%d.png'):format(sub, i), dlv3.full({3, 30 + i * 7 % 50, 30 + i}, i, {dtype = 'u8'}))
    end
    local few = measured(('--output-dir %s/out %s/few'):format(folder, folder))
    local many = measured(('--output-dir %s/out %s/few %s/many'):format(folder, folder, folder))
    t.ok(many < few + 24, ('%d MiB for 24 sizes, %d for 96'):format(few, many))
  end)

  t.case('an evaluation of 400 photos of many sizes takes no more memory than one of 40', function()
    local folder = t.folder()
    local voc = folder .. '/VOCdevkit/VOC2012'
    for _, sub in ipairs {'JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'} do
      system.make_directory(voc .. '/' .. sub)
    end
    local ids = {}
    for i = 1, 400 do
      local h, w = 33 + i * 7 % 11, 33 + i % 19
      ids[i] = tostring(i)
      image.write_png(('%s/JPEGImages/%d.png'):format(voc, i), dlv3.full({3, h, w}, i % 256, {dtype = 'u8'}))
      image.write_png(('%s/SegmentationClass/%d.png'):format(voc, i), dlv3.full({h, w}, i % 4, {dtype = 'u8'}))
    end
    files.save_text(voc .. '/ImageSets/Segmentation/all.txt', table.concat(ids, '\n') .. '\n')
    files.save_text(voc .. '/ImageSets/Segmentation/some.txt', table.concat(ids, '\n', 1, 40) .. '\n')
    local some = measured(('--data-path %s --split some'):format(folder), 'validate')
    local all, output = measured(('--data-path %s --split all'):format(folder), 'validate')
    t.ok(output:find('400 images', 1, true), output)
    t.ok(all < some + 16, ('%d MiB for 40 photos, %d for 400'):format(some, all))
  end)

  -- Writes a PNG of one colour in a few kilobytes of memory: what a large one takes is then
  -- predict's.
  local write_large = [[
import struct, sys, zlib
path, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
packer, row, parts = zlib.compressobj(1), b'\0' + bytes([90]) * width, []
for _ in range(height): parts.append(packer.compress(row))
parts.append(packer.flush())
header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
png = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b''.join(parts)) + chunk(b'IEND', b'')
open(path, 'wb').write(png)
]]

  t.case('a photo of 300 megapixels, and one with more pixels than are read', function()
    if sanitized then t.skip 'sanitizers take memory and time' end
    local python, reason = t.python 'zlib'
    if not python then t.skip(reason) end
    local folder = t.folder()
    files.save_text(folder .. '/write.py', write_large)
    for name, size in pairs {huge = '20000 15000', beyond = '24000 24000'} do
      local output, status = t.run(('%s %s/write.py %s/%s.png %s'):format(python, folder, folder, name, size))
      t.eq(status, 0, output)
    end
    local peak = measured(('--output-dir %s/out %s/huge.png'):format(folder, folder))
    t.eq(image.read_mask(folder .. '/out/huge.png'):size(), {15000, 20000})
    t.ok(peak < 2200, peak .. ' MiB')
    local output, status = predict(('--output-dir %s/out %s/beyond.png'):format(folder, folder))
    t.eq(status, 1, output)
    t.ok(output:find('beyond.png: an image of 24000x24000 pixels is too large (at most 536870912 pixels are read); '
                     .. 'make it smaller', 1, true), output)
  end)

  t.case('a photo of 24 megapixels', function()
    local folder = t.folder()
    image.write_png(folder .. '/large.png', dlv3.full({3, 4000, 6000}, 90, {dtype = 'u8'}))
    local peak, output = measured(('--output-dir %s/out %s/large.png'):format(folder, folder))
    t.ok(output:find ' 1 photos in', output)
    t.eq(image.read_mask(folder .. '/out/large.png'):size(), {4000, 6000})
    t.ok(peak < 500, peak .. ' MiB')
  end)
end
