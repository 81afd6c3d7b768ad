-- test_readme.lua - the Lua in README.md runs as it stands: every ```lua block, one after the other.
--
-- Blocks run in a folder of their own with a small generated data set in ./data, as the text around them says.

return function(t)
  local file = assert(io.open(t.directory .. '/../README.md'))
  local text = file:read('*a')
  file:close()
  local binary = require('dlv3.host').executable
  for block in text:gmatch('```lua\n(.-)```') do
    local title = block:match('^%-%-%s*([^\n]*)') or block:match('^[^\n]*')
    t.case(title, function()
      local folder = t.folder()
      local script = assert(io.open(folder .. '/block.lua', 'w'))
      script:write(block)
      script:close()
      local root = t.directory:sub(1, 1) == '/' and t.directory or os.getenv 'PWD' .. '/' .. t.directory
      local output, status = t.run(('cd %s && %s %s/../scripts/make_shapes.lua --output-dir data --train 8 --val 4 && %s block.lua')
        :format(folder, binary, root, binary))
      t.eq(status, 0, output)
    end)
  end
end
