-- test_image.lua - image files, resizing and normalising: against fixtures that Pillow made
-- (tests/golden/make_images.py), and against Pillow itself where it is there.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local F = require 'dlv3.core.ffi'
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
  return path
end

-- Pillow's rule for one line of numbers, in fixed point: list -> list of n.
local function resize_line(list, n)
  local scale, half, result = #list / n, 2 ^ 21, {}
  local reach = math.max(scale, 1)
  for i = 1, n do
    local center, sum, total = (i - 0.5) * scale, half, 0
    local first, last = math.max(0, math.floor(math.max(0, center - reach + 0.5))),
        math.min(#list, math.floor(center + reach + 0.5)) - 1
    local function weight(k) return math.max(0, 1 - math.abs((k - center + 0.5) * (1 / reach))) end
    for k = first, last do total = total + weight(k) end
    for k = first, last do sum = sum + list[k + 1] * math.floor(0.5 + weight(k) / total * 2 ^ 22) end
    result[i] = math.max(0, math.min(255, math.floor(sum / 2 ^ 22)))
  end
  return result
end

local function transpose(rows)
  local turned = {}
  for x = 1, #rows[1] do
    turned[x] = {}
    for y = 1, #rows do turned[x][y] = rows[y][x] end
  end
  return turned
end

-- Rows first, rounded, then columns.
local function resize_plane(rows, h, w)
  local wide, tall = {}, {}
  for y = 1, #rows do wide[y] = #rows[y] == w and rows[y] or resize_line(rows[y], w) end
  wide = transpose(wide)
  for x = 1, w do tall[x] = #wide[x] == h and wide[x] or resize_line(wide[x], h) end
  return transpose(tall)
end

return function(t)
  local golden = t.directory .. '/golden/images/'
  local expected = read_file(golden .. 'expected.bin')

  -- The fixtures of a kind: {file, bytes, numbers...}
  local function fixtures(kind)
    local list = {}
    for line in io.lines(golden .. 'index.txt') do
      local words = {}
      for word in line:gmatch '%S+' do words[#words + 1] = word end
      if words[1] == kind then
        local numbers = {}
        for i = 5, #words do numbers[i - 4] = tonumber(words[i]) end
        list[#list + 1] = {words[2], expected:sub(words[3] + 1, words[3] + words[4]), numbers}
      end
    end
    t.ok(#list > 0, 'no fixtures of ' .. kind)
    return list
  end

  local function same_bytes(tensor, bytes, name) t.ok(tensor:tobytes() == bytes, name .. ' differs from Pillow') end

  t.case('JPEG and PNG as Pillow reads them', function()
    for _, f in ipairs(fixtures 'image') do
      local x = image.read(golden .. f[1], {orient = false})
      t.eq(x:size(), {3, f[3][1], f[3][2]})
      t.eq(x.dtype, 'u8')
      same_bytes(x, f[2], f[1])
    end
  end)

  t.case('EXIF orientation', function()
    for _, f in ipairs(fixtures 'orient') do
      local x = image.read(golden .. f[1])
      t.eq(x:size(), {3, f[3][1], f[3][2]}, f[1])
      same_bytes(x, f[2], f[1])
    end
    t.eq(image.read(golden .. 'orient6.jpg', {orient = false}):size(), {3, 23, 37})
  end)

  t.case('masks are indices', function()
    for _, f in ipairs(fixtures 'mask') do
      local x = image.read_mask(golden .. f[1])
      t.eq(x:size(), {23, 37})
      same_bytes(x, f[2], f[1])
    end
  end)

  t.case('masks that are none', function()
    t.error(function() image.read_mask(golden .. 'rgb.png') end,
            'rgb.png: an RGB mask: colours are not class numbers\n  a mask has one class number per pixel')
    t.error(function() image.read_mask(golden .. 'rgba.png') end, 'rgba.png: an RGBA mask')
    t.error(function() image.read_mask(golden .. 'rgb16.png') end, 'rgb16.png: an RGB mask')
    t.error(function() image.read_mask(golden .. 'grey16.png') end,
            'grey16.png: a grey mask of 16 bits; labels have 8.-Image.fromarray')
    t.error(function() image.read_mask(golden .. 'grey_alpha.png') end, 'grey_alpha.png: a grey mask with transparency')
    t.error(function() image.read_mask(golden .. '420.jpg') end,
            '420.jpg: the mask is a JPEG, whose compression changes the class numbers')
  end)

  t.case('resizing as Pillow does', function()
    local noise = image.read(golden .. 'noise.png')
    for _, f in ipairs(fixtures 'resize') do same_bytes(image.resize(noise, f[3]), f[2], table.concat(f[3], 'x')) end
    local labels = image.read_mask(golden .. 'labels_grey.png')
    for _, f in ipairs(fixtures 'resize_mask') do
      same_bytes(image.resize_mask(labels, f[3]), f[2], table.concat(f[3], 'x'))
    end
  end)

  t.case('resizing by its rule, every width', function()
    for _, size in ipairs {{9, 13}, {4, 3}, {31, 50}} do
      local x = dlv3.randint(0, 256, {3, size[1], size[2]}, {dtype = 'u8'})
      local planes = x:totable()
      for w = 1, 45 do
        local h = 1 + w * 7 % 40
        local made = {}
        for c = 1, 3 do made[c] = resize_plane(planes[c], h, w) end
        t.eq(image.resize(x, {h, w}):totable(), made, ('%dx%d to %dx%d'):format(size[1], size[2], h, w))
      end
    end
  end)

  t.case('more rows than a thread resizes or normalises at a time', function()
    local x = dlv3.randint(0, 256, {3, 90, 20}, {dtype = 'u8'})
    local planes, made = x:totable(), {}
    for c = 1, 3 do made[c] = resize_plane(planes[c], 300, 11) end
    t.eq(image.resize(x, {300, 11}):totable(), made)
    local wide, mask = image.resize(x, {330, 200}), image.resize_mask(x[1], {330, 20})
    for y = 1, 330, 47 do
      local row = math.floor((y - 0.5) * 90 / 330) + 1
      t.eq(mask[y], x[1][row], 'row ' .. y)
    end
    local whole, rows = image.normalize(wide), {}
    for i = 1, 3 do rows[i] = image.normalize(wide:narrow(2, 110 * (i - 1) + 1, 110)) end
    t.ok(whole:equal(dlv3.cat(rows, 3)))
  end)

  t.case('sizes of resizing', function()
    local x = dlv3.zeros({3, 333, 500}, {dtype = 'u8'})
    t.eq(image.resize(x, 520):size(), {3, 520, 780}) -- 780.78 is cut
    t.eq(image.resize(x:permute(1, 3, 2), 520):size(), {3, 780, 520})
    t.eq(image.resize(x, {7, 9}):size(), {3, 7, 9})
    t.eq(image.resize_mask(x[1], 100):size(), {100, 150})
    t.error(function() image.resize(x, 0) end, 'resize: the size is {height, width} or the shorter side')
    t.error(function() image.resize(x, {2 ^ 20, 2 ^ 20}) end, '1048576x1048576 pixels is too large')
    t.error(function() image.resize(x[1], 10) end, 'resize: expected u8 %[3,h,w%]\n')
    t.error(function() image.resize_mask(x, 10) end, 'resize_mask: expected u8 %[h,w%]\n')
    t.error(function() image.resize(dlv3.zeros{3, 4, 4}, 10) end, 'expected u8 %[3,h,w%]\n.*f32')
    t.error(function() image.resize(dlv3.zeros({3, 0, 4}, {dtype = 'u8'}), {10, 10}) end, 'is empty')
    local released = dlv3.zeros({3, 4, 4}, {dtype = 'u8'})
    released:release()
    t.error(function() image.resize(released, {2, 2}) end, 'released')
  end)

  t.case('any strides', function()
    local x = image.read(golden .. '420.jpg')
    local planar = dlv3.frombytes(x:tobytes(), {3, 23, 37}, {dtype = 'u8'})
    t.eq(image.resize(planar, {11, 50}), image.resize(x, {11, 50}))
    local window = x:narrow(2, 4, 9):narrow(3, 2, 30)
    t.eq(image.resize(window, {20, 20}), image.resize(window:clone(), {20, 20}))
  end)

  t.case('normalising', function()
    local x = image.read(golden .. '420.jpg')
    local y = image.normalize(x)
    t.eq(y:size(), {1, 3, 23, 37})
    t.ok(y:is_contiguous())
    -- every step rounded to f32
    local f = F.new 'float[2]'
    local bytes, worst = x:tobytes(), 0
    local values = y:totable()[1]
    for c = 1, 3 do
      for i = 0, 23 * 37 - 1, 7 do
        f[0] = bytes:byte((c - 1) * 23 * 37 + i + 1)
        f[0] = f[0] / 255
        f[1] = image.mean[c]
        f[0] = f[0] - f[1]
        f[1] = image.std[c]
        f[0] = f[0] / f[1]
        worst = math.max(worst, math.abs(values[c][math.floor(i / 37) + 1][i % 37 + 1] - f[0]))
      end
    end
    t.eq(worst, 0)
    for _, dtype in ipairs {'bf16', 'f16', 'f64'} do t.eq(image.normalize(x, {dtype = dtype}), y:to(dtype), dtype) end
    t.close(image.normalize(x, {mean = {0, 0, 0}, std = {1, 1, 1}}), x:unsqueeze(1):to('f32') / 255, 1e-6, 0)
    t.error(function() image.normalize(x, {std = {1, 0, 1}}) end, 'std must be above 0, got 0 for channel 2')
    t.error(function() image.normalize(x, {mean = {1, 0}}) end, 'three numbers')
    t.error(function() image.normalize(x, {dtype = 'u8'}) end, 'got u8')
  end)

  t.case('writing and reading back', function()
    local folder = t.folder()
    local x = image.read(golden .. 'rgb.png')
    image.write_png(folder .. '/a.png', x)
    t.eq(image.read(folder .. '/a.png'), x)
    image.write_png(folder .. '/a.png', dlv3.cat({x, x:narrow(1, 2, 1)}, 1)) -- over the old file
    t.eq(image.read(folder .. '/a.png'), x)
    local labels = image.read_mask(golden .. 'palette8.png')
    image.write_png(folder .. '/grey.png', labels)
    t.eq(image.read_mask(folder .. '/grey.png'), labels)
    image.write_png(folder .. '/p.png', labels, image.voc_palette())
    t.eq(image.read_mask(folder .. '/p.png'), labels)
    t.eq({image.voc_color(0)}, {0, 0, 0})
    t.eq({image.voc_color(1)}, {128, 0, 0})
    t.eq({image.voc_color(20)}, {0, 64, 128})
    t.eq({image.voc_color(255)}, {224, 224, 192})
    t.eq(image.read(folder .. '/p.png'):narrow(3, 1, 1):narrow(2, 1, 1):totable(), {{{224}}, {{224}}, {{192}}}) -- 255
    image.write_png(folder .. '/q.png', labels, {{1, 2, 3}})
    image.write_jpeg(folder .. '/a.jpg', x, {quality = 95})
    t.close(image.read(folder .. '/a.jpg'):to('f32'):mean(), x:to('f32'):mean(), 0, 3)
    t.eq((t.run('ls -A ' .. folder)), 'a.jpg\na.png\ngrey.png\np.png\nq.png\n') -- no temporary files
    t.error(function() image.write_png(folder .. '/none/a.png', x) end, '/none/a.png')
    t.error(function() image.write_jpeg(folder .. '/a.jpg', x, {quality = 0}) end,
            'expected a quality of 1 to 100, got 0')
    t.error(function() image.write_jpeg(folder .. '/a.jpg', labels) end, 'expected u8 %[3,h,w%]')
    t.error(function() image.write_png(folder .. '/b.png', x, image.voc_palette()) end, 'expected u8 %[h,w%]')
    t.error(function() image.write_png(folder .. '/b.png', labels, {{1, 2, 256}}) end,
            'color 1 is not {r, g, b} of 0..255')
    t.error(function() image.write_png(folder .. '/b.png', labels, 'abcd') end, 'a palette has at most 256 colors')
  end)

  t.case('files that are no images', function()
    local folder = t.folder()
    t.error(function() image.read(folder .. '/none.jpg') end, '/none.jpg: can not be read: No such file')
    t.error(function() image.read(folder) end, ': is a folder')
    t.error(function() image.read(write_file(folder .. '/empty.jpg', '')) end, '/empty.jpg: the file is empty')
    t.error(function() image.read(write_file(folder .. '/a.jpg', '<html>')) end,
            '/a.jpg: expected a JPEG or PNG file; this looks like a web page')
    t.error(function() image.read(write_file(folder .. '/b.jpg', 'GIF89a')) end, 'this looks like a GIF')
    t.error(function() image.read(write_file(folder .. '/c.jpg', 'abcdefgh')) end,
            'this begins with the bytes 61 62 63 64')
    t.error(function() image.read_mask(folder .. '/c.jpg') end, 'this begins with the bytes 61 62 63 64')
    t.error(function() image.read(nil) end, "read: expected a file's name, got nothing")
    write_file(folder .. '/png.jpg', read_file(golden .. 'rgb.png'))
    t.eq(image.read(folder .. '/png.jpg'), image.read(golden .. 'rgb.png')) -- by content
  end)

  t.case('huge sizes are refused', function()
    t.error(function() image.read(golden .. 'huge.png') end, 'huge.png: an image of 40000x40000 pixels is too large')
    local jpeg = read_file(golden .. '420.jpg')
    local at = jpeg:find('\255\192', 1, true)
    local big = jpeg:sub(1, at + 4) .. '\255\0\255\0' .. jpeg:sub(at + 9)
    t.error(function() image.read(write_file(t.folder() .. '/huge.jpg', big)) end,
            'huge.jpg: an image of 65280x65280 pixels is too large')
  end)

  t.case('cut files are errors', function()
    local path = t.folder() .. '/cut'
    local function lengths(n)
      local list = {n - 1, n - 2, n - 3, n - 9}
      for keep = 1, n - 16, 29 do list[#list + 1] = keep end
      return list
    end
    for _, name in ipairs {'420.jpg', 'progressive.jpg', 'cmyk.jpg', 'rgb.png', 'palette4.png', 'orient6.jpg'} do
      local whole = read_file(golden .. name)
      for _, keep in ipairs(lengths(#whole)) do
        local ok, message = pcall(image.read, write_file(path, whole:sub(1, keep)))
        t.ok(not ok, name .. ' cut to ' .. keep .. ' bytes was read')
        t.ok(tostring(message):find('/cut: ', 1, true), message)
      end
    end
  end)

  -- A big-endian number, and a chunk of a PNG with its sum.
  local function be32(n)
    return string.char(math.floor(n / 2 ^ 24) % 256, math.floor(n / 2 ^ 16) % 256, math.floor(n / 2 ^ 8) % 256, n % 256)
  end

  local function crc32(s)
    local crc = bit.bnot(0)
    for i = 1, #s do
      crc = bit.bxor(crc, s:byte(i))
      for _ = 1, 8 do crc = bit.bxor(bit.rshift(crc, 1), bit.band(crc, 1) == 1 and 0xEDB88320 or 0) end
    end
    return bit.bnot(crc) % 2 ^ 32
  end

  local function chunk(kind, content) return be32(#content) .. kind .. content .. be32(crc32(kind .. content)) end

  -- rgb.png with more behind its header.
  local function png_with(more)
    local whole = read_file(golden .. 'rgb.png')
    return whole:sub(1, 33) .. more .. whole:sub(34)
  end

  local sanitized = runtime.is_sanitized() -- they need memory of their own

  -- Reads a file in a process of its own: what it says, and its peak memory in bytes (0 under
  -- sanitizers).
  local function read_apart(path)
    local program = t.folder() .. '/read.lua'
    write_file(program,
               ("print(pcall(require 'dlv3.vision.image'.read, %q)) print(require 'dlv3.os'.peak_memory())"):format(
        path))
    local output = t.run(("'%s' %s"):format(require('dlv3.host').executable, program))
    return output, sanitized and 0 or tonumber(output:match '(%d+)\n$')
  end

  t.case('a chunk that claims two gigabytes takes none', function()
    local path, header = t.folder() .. '/claim.png', read_file(golden .. 'rgb.png'):sub(1, 33)
    local least = select(2, read_apart(write_file(path, header)))
    for kind in ('tEXt zTXt iTXt sPLT pCAL sCAL eXIf iCCP hIST tRNS PLTE IDAT prVt'):gmatch '%S+' do
      write_file(path, header .. be32(2 ^ 31 - 1) .. kind .. 'key\0\0\0')
      local output, peak = read_apart(path)
      t.ok(output:find 'claim.png: a damaged PNG: the file ends too early', kind .. ': ' .. output)
      t.ok(peak < least + 16 * 2 ^ 20, ('%s: %d MiB'):format(kind, peak / 2 ^ 20))
    end
  end)

  t.case('a JPEG that claims more pixels than its bytes can hold takes no memory for them', function()
    local path = t.folder() .. '/claim.jpg'
    local least = select(2, read_apart(golden .. '420.jpg'))
    for name, frame in pairs {['420.jpg'] = '\255\192', ['progressive.jpg'] = '\255\194'} do
      local bytes = read_file(golden .. name)
      local at = bytes:find(frame, 1, true)
      write_file(path, bytes:sub(1, at + 4) .. '\62\128\62\128' .. bytes:sub(at + 9))
      local output, peak = read_apart(path)
      t.ok(output:find 'claim.jpg: a damaged JPEG: its %d+ bytes can not hold the 16000x16000 pixels that it claims',
           output)
      t.ok(peak < least + 16 * 2 ^ 20, ('%s: %d MiB'):format(name, peak / 2 ^ 20))
      t.error(function() image.read(path, {tolerant = true}) end, 'can not hold')
    end
    -- as few bytes as a picture can take are enough
    image.write_jpeg(path, dlv3.full({3, 2000, 2000}, 255, {dtype = 'u8'}), {quality = 1})
    t.eq(image.read(path):min():item(), 255)
  end)

  t.case('text that unpacks to gigabytes costs a bounded look', function()
    -- a megabyte of one letter in a kilobyte, as a stored table of a thousand chunks
    local python, reason = t.python('zlib')
    if not python then t.skip(reason) end
    local path = t.folder() .. '/bomb.png'
    t.run(([[%s -c "
import struct, zlib
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
whole = open('%srgb.png', 'rb').read()
bomb = chunk(b'zTXt', b'XML:com.adobe.xmp\0\0' + zlib.compress(b'x' * (1 << 28)))
open('%s', 'wb').write(whole[:33] + bomb * 40 + whole[33:])"]]):format(python, golden, path))
    local begin = dlv3.now()
    local output, peak = read_apart(path)
    t.ok(output:find '^true', output)
    t.ok(peak < 64 * 2 ^ 20, peak)
    t.ok(dlv3.now() - begin < 5, 'took ' .. dlv3.now() - begin)
  end)

  -- -- Damaged in part ----------------------------------------------------------------------------

  -- Strict reading refuses the file with this text; tolerant reading returns the picture and the
  -- text.
  local function tolerant(path, text)
    t.error(function() image.read(path) end, text)
    local x, info = image.read_with_info(path, {tolerant = true})
    t.ok(info.damage and info.damage:find(text), tostring(info.damage))
    return x
  end

  -- 420.jpg with a Huffman code of ones only, which stands for nothing, `at` bytes into its scan.
  local function bad_code(at)
    local whole = read_file(golden .. '420.jpg')
    local scan = whole:find('\255\218', 1, true) + 14
    return write_file(t.folder() .. '/bad_code.jpg',
                      whole:sub(1, scan + at) .. ('\255\0'):rep(4) .. whole:sub(scan + at + 9))
  end

  t.case('a JPEG with wrong or missing data is refused, or decoded as far as it goes', function()
    local whole, path = image.read(golden .. '420.jpg'), t.folder() .. '/short.jpg'
    local x = tolerant(bad_code(400), 'a damaged JPEG: Corrupt JPEG data: bad Huffman code %(at row %d+ of 23%)')
    t.eq(x:size(), {3, 23, 37})
    t.eq(x:narrow(2, 1, 12), whole:narrow(2, 1, 12))
    for _, name in ipairs {'420.jpg', 'progressive.jpg', 'grey.jpg', 'cmyk.jpg'} do
      local bytes = read_file(golden .. name)
      write_file(path, bytes:sub(1, #bytes - 9))
      t.eq(tolerant(path, 'Premature end of JPEG file'):size(), {3, 23, 37})
    end
    write_file(path, read_file(golden .. '420.jpg'):sub(1, -100))
    t.eq(tolerant(path, 'Premature end of JPEG file %(at row 14 of 23%)'):narrow(2, 1, 12), whole:narrow(2, 1, 12))
    write_file(path, read_file(golden .. '420.jpg'):sub(1, 300)) -- no picture at all
    t.error(function() image.read(path, {tolerant = true}) end, 'short.jpg: the JPEG can not be decoded: ')
    t.eq(select(2, image.read_with_info(golden .. '420.jpg', {tolerant = true})).damage, nil)
  end)

  t.case('a JPEG of 12 bits or with differential frames is not damaged but of another kind', function()
    local bytes, path = read_file(golden .. '420.jpg'), t.folder() .. '/kind.jpg'
    local at = bytes:find('\255\192', 1, true)
    write_file(path, bytes:sub(1, at + 3) .. '\12' .. bytes:sub(at + 5))
    t.error(function() image.read(path) end, 'kind.jpg: an unsupported kind of JPEG: Unsupported JPEG data '
                                             .. 'precision 12; save it')
    write_file(path, bytes:sub(1, at) .. '\197' .. bytes:sub(at + 2))
    t.error(function() image.read(path) end, 'kind.jpg: an unsupported kind of JPEG: .*; save it as an '
                                             .. '8%-bit JPEG or PNG')
  end)

  t.case('a wrong checksum beside the pixels of a PNG', function()
    local path, whole = t.folder() .. '/sum.png', image.read(golden .. 'rgb.png')
    for _, kind in ipairs {'tEXt', 'gAMA', 'eXIf', 'prVt'} do
      write_file(path, png_with(be32(6) .. kind .. 'a\0text' .. be32(1)))
      t.eq(tolerant(path, 'a damaged PNG: ' .. kind .. ': CRC error'), whole)
      t.eq(image.read(write_file(path, png_with(chunk(kind, 'a\0text')))), whole)
    end
    local bytes = read_file(golden .. 'labels_grey.png')
    write_file(path, bytes:sub(1, 33) .. be32(1) .. 'prVt' .. 'x' .. be32(1) .. bytes:sub(34))
    t.error(function() image.read_mask(path) end, 'sum.png: a damaged PNG: prVt: CRC error')
    -- of the pixels: always an error
    bytes = read_file(golden .. 'rgb.png')
    local at = bytes:find('IEND', 1, true) - 5
    write_file(path, bytes:sub(1, at - 1) .. string.char((bytes:byte(at) + 1) % 256) .. bytes:sub(at + 1))
    t.error(function() image.read(path, {tolerant = true}) end, 'a damaged PNG: IDAT: CRC error')
  end)

  t.case('scans of a progressive JPEG are counted', function()
    local whole, path = read_file(golden .. 'progressive.jpg'), t.folder() .. '/scans.jpg'
    local first = whole:find('\255\218', 1, true)
    local last = whole:find('\255[^%z]', first + 2) - 1 -- of the first scan, which may be repeated
    local function with(n)
      return write_file(path, whole:sub(1, last) .. whole:sub(first, last):rep(n) .. whole:sub(last + 1))
    end
    t.eq(image.read(with(40)), image.read(golden .. 'progressive.jpg'))
    local begin = dlv3.now()
    for _, how in ipairs {false, true} do
      t.error(function() image.read(with(20000), {tolerant = how}) end,
              'scans.jpg: the JPEG can not be decoded: expected at most 100 scans .* save it again')
    end
    t.ok(dlv3.now() - begin < 1, 'took ' .. dlv3.now() - begin)
  end)

  t.case('16 bits that hold 12 are found, and others are not', function()
    local dark, info = image.read_with_info(golden .. 'grey16.png')
    t.eq(info.bits, 16)
    t.eq(image.too_dark(dark, info), nil)
    t.ok(image.too_dark(dlv3.full({3, 2, 2}, 15, {dtype = 'u8'}),
                        info):find 'only the low 12 are used .* multiply its values by 16')
    t.eq(image.too_dark(dlv3.full({3, 2, 2}, 16, {dtype = 'u8'}), info), nil)
    t.eq(image.too_dark(dlv3.zeros({3, 2, 2}, {dtype = 'u8'}), select(2, image.read_with_info(golden .. 'rgb.png'))),
         nil)
    t.eq(select(2, image.read_with_info(golden .. 'palette2.png')).bits, 2)
    t.eq(select(2, image.read_with_info(golden .. '420.jpg')).bits, 8)
    t.eq(select(2, image.read_with_info(golden .. 'xmp6.png', {orient = false})).orientation, 6)
    t.eq(select(2, image.read_with_info(golden .. 'xmp_element8.jpg', {orient = false})).orientation, 8)
  end)

  t.case('damaged files never crash', function()
    local path, state = t.folder() .. '/bad', 12345
    local function random(n)
      state = (state * 1103515245 + 12345) % 2 ^ 31
      return math.floor(state / 2 ^ 31 * n)
    end
    for _, name in ipairs {'420.jpg', 'progressive.jpg', 'cmyk.jpg', 'grey.jpg', 'orient6.jpg', 'rgb.png',
                           'palette4.png', 'rgb16.png', 'orient6.png', 'xmp_packed8.png', 'raw6.png', 'xmp6.jpg'} do
      local whole = read_file(golden .. name)
      for _ = 1, 30 do
        local bytes = whole
        for _ = 1, 3 do
          local at = 3 + random(#whole - 3)
          bytes = bytes:sub(1, at) .. string.char(random(256)) .. bytes:sub(at + 2)
        end
        write_file(path, bytes)
        pcall(image.read, path)
        pcall(image.read, path, {tolerant = true})
        pcall(image.read_mask, path)
      end
    end
  end)

  t.case('counting labels', function()
    local mask = dlv3.tensor({{0, 3, 3}, {255, 3, 0}}, {dtype = 'u8'})
    local counts, first = image.count_labels(mask)
    t.eq({tonumber(counts[0]), tonumber(counts[3]), tonumber(counts[255]), tonumber(counts[7])}, {2, 3, 1, 0})
    t.eq({tonumber(first[0]), tonumber(first[3]), tonumber(first[255]), tonumber(first[7])}, {0, 1, 3, -1})
  end)

  t.case('a bad Huffman code as Pillow reads it', function()
    local python, reason = t.python('PIL', 'numpy')
    if not python then t.skip(reason) end
    local out = t.folder() .. '/out'
    for _, at in ipairs {20, 200, 400} do
      local file = bad_code(at)
      local text, status = t.run(('%s -B %s/golden/pillow_oracle.py decode %s %s'):format(
          python, t.directory, out, file))
      t.eq(status, 0, text)
      same_bytes(image.read(file, {tolerant = true}), read_file(out):match '^23 37\n(.*)$', file)
    end
  end)

  -- -- Against Pillow, on files that are not part of the project ----------------------------------

  local function pillow()
    local python, reason = t.python('PIL', 'numpy')
    if not python then t.skip(reason) end
    return python .. ' -B ' .. t.directory .. '/golden/pillow_oracle.py '
  end

  local function data()
    return t.data() or t.skip 'the folder of test images is not there (DLV3_TEST_DATA)'
  end

  -- Compares read(file) with what the oracle wrote for each: 'h w' and bytes, or 'error'.
  local function compare(files, result, channels, read, tolerate)
    local at, equal = 1, 0
    for file in files:gmatch '[^\n]+' do
      local line = result:match('^[^\n]*', at)
      at = at + #line + 1
      local h, w = line:match '^(%d+) (%d+)$'
      local n = h and h * w * channels or 0
      local ok, x = pcall(read, file)
      if ok then
        t.ok(h, file .. ' was read, Pillow refuses it')
        t.ok(x:tobytes() == result:sub(at, at + n - 1), file .. ' differs from Pillow')
        equal = equal + 1
      else
        t.ok(not h or tolerate(file), tostring(x) .. '; Pillow reads it')
      end
      at = at + n
    end
    return equal
  end

  t.case('PngSuite, odd JPEGs and VOC photos as Pillow reads them', function()
    local command, root, out = pillow(), data(), t.folder() .. '/out'
    local files = t.run('ls ' .. root .. '/odd_images/*.jpg ' .. root .. '/odd_images/pngsuite/*.png ' .. root
                        .. '/voc_samples/JPEGImages/*')
    local text, status = t.run(command .. 'decode ' .. out .. ' ' .. files:gsub('\n', ' '))
    t.eq(status, 0, text)
    -- a wrong checksum of the pixels, which Pillow does not look at
    local function tolerate(file) return file:find 'xcsn0g01' ~= nil end
    local equal = compare(files, read_file(out), 3, function(file) return image.read(file, {orient = false}) end,
                          tolerate)
    t.ok(equal >= 160, equal .. ' files are equal')
    files = t.run('ls ' .. root .. '/voc_samples/SegmentationClass/*')
    t.run(command .. 'masks ' .. out .. ' ' .. files:gsub('\n', ' '))
    t.ok(compare(files, read_file(out), 1, image.read_mask, function() return false end) >= 3)
  end)

  t.case('a VOC photo resized as Pillow does', function()
    local command, root, out = pillow(), data(), t.folder() .. '/out'
    local photo = t.run('ls ' .. root .. '/voc_samples/JPEGImages/*'):match '[^\n]+'
    local mask = photo:gsub('JPEGImages', 'SegmentationClass'):gsub('jpg$', 'png')
    local sizes = {{260, 390}, {1040, 1387}, {1, 1}, {7, 3}, {520, 780}, {333, 500}, {17, 500}, {375, 41}, {513, 513},
                   {100, 1000}, {374, 499}, {3, 2000}}
    local words = {}
    for i, s in ipairs(sizes) do words[i] = s[1] .. ' ' .. s[2] end
    local text, status = t.run(('%s resize %s %s %s %s'):format(command, out, photo, mask, table.concat(words, ' ')))
    t.eq(status, 0, text)
    local result, at = read_file(out), 1
    local x, m = image.read(photo), image.read_mask(mask)
    for _, s in ipairs(sizes) do
      local n = s[1] * s[2]
      same_bytes(image.resize(x, s), result:sub(at, at + 3 * n - 1), s[1] .. 'x' .. s[2])
      same_bytes(image.resize_mask(m, s), result:sub(at + 3 * n, at + 4 * n - 1), 'mask ' .. s[1] .. 'x' .. s[2])
      at = at + 4 * n
    end
  end)
end
