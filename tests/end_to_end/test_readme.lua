-- test_readme.lua - the code in README.md and docs/ runs as it stands: every ```lua block as a
-- script, every ```sh block as a shell script.
--
-- Blocks run in a folder of their own with what the text around them takes for granted: ./data (8
-- and 4 small pictures with 4 classes), ./photos, ./dlv3, ./scripts, and a weight file under the
-- name of torchvision's. Shell blocks train one epoch on pictures of 65 pixels instead of what they
-- say. cuda_kernels.md needs a device: test_cuda_kernel.lua runs its blocks.

local files = require 'dlv3.io.files'

return function(t)
  local binary = require('dlv3.host').executable
  local root = t.directory:sub(1, 1) == '/' and t.directory or os.getenv 'PWD' .. '/' .. t.directory
  root = root .. '/..'

  local function read(path)
    local file = assert(io.open(path))
    local text = file:read '*a'
    file:close()
    return text
  end

  local prepare = [[
ln -s %s dlv3 && ln -s %s/scripts scripts && ./dlv3 scripts/make_shapes.lua --output-dir data --train 8 --val 4 &&
ln -s data/VOCdevkit/VOC2012/JPEGImages photos && ./dlv3 -e "dlv3.manual_seed(1)
dlv3.save('deeplabv3_mobilenet_v3_large-fc3c493d.pth',
  require 'models'.deeplabv3_mobilenet_v3_large{num_classes = 21, aux = true}:state_dict())"]]

  local prepared -- the folder that all blocks get a copy of
  local function folder()
    if not prepared then
      prepared = t.folder()
      local output, status = t.run(('cd %s && %s'):format(prepared, prepare:format(binary, root)))
      t.eq(status, 0, output)
    end
    local copy = t.folder()
    t.run(('cp -a %s/. %s'):format(prepared, copy))
    return copy
  end

  local small = {
    [' %-%-epochs 20 '] = ' --epochs 1 --base-size 65 --crop-size 65 ',
    ['(%-%-weights out/best%.pth)'] = '%1 --base-size 65',
  }

  local run = {
    lua = function(block)
      local place = folder()
      files.save_text(place .. '/block.lua', block)
      return t.run(('cd %s && ./dlv3 block.lua'):format(place))
    end,
    sh = function(block)
      local place = folder()
      for from, to in pairs(small) do block = block:gsub(from, to) end
      files.save_text(place .. '/block.sh', 'set -e\n' .. block)
      return t.run(('cd %s && sh block.sh'):format(place))
    end,
  }

  local pages = {'README.md'}
  for name in t.run(('cd %s && ls docs'):format(root)):gmatch '([%w_]+%.md)' do
    if name ~= 'cuda_kernels.md' then pages[#pages + 1] = 'docs/' .. name end
  end

  for _, name in ipairs(pages) do
    local text = read(root .. '/' .. name)
    for language, block in ('\n' .. text):gmatch '\n```(%a+)\n(.-)```' do
      local title = block:match '^%-%-%s*([^\n]*)' or block:match '^[^\n]*'
      t.case(name .. ': ' .. title, function()
        t.ok(run[language], 'expected a block of lua or sh, got ' .. language)
        local output, status = run[language](block)
        t.eq(status, 0, output)
      end)
    end
  end

  t.case('every page of docs/ is linked from README.md', function()
    local text = read(root .. '/README.md')
    for i = 2, #pages do
      t.ok(text:find('(' .. pages[i] .. ')', 1, true), 'README.md has no link to ' .. pages[i])
    end
  end)
end
