-- test_os.lua - dlv3.os: folders, kinds of paths, the process.

local files = require 'dlv3.io.files'
local system = require 'dlv3.os'

return function(t)
  t.case('kinds of paths', function()
    local folder = t.folder()
    files.save_text(folder .. '/a', 'x')
    t.eq({system.kind(folder), system.kind(folder .. '/a'), tostring(system.kind(folder .. '/b'))},
         {'directory', 'file', 'nil'})
    t.eq({system.is_file(folder .. '/a'), system.is_file(folder), system.is_file(folder .. '/b')}, {true, false, false})
    t.eq({system.is_directory(folder .. '/a'), system.is_directory(folder)}, {false, true})
    t.eq(tostring(system.kind(folder .. '/a\0b')), 'nil')
    t.error(function() system.kind(nil) end, 'os: path: expected a string, got nothing')
  end)

  t.case('directories are made with their parents, and listed in order', function()
    local folder = t.folder()
    system.make_directory(folder .. '/b/c')
    system.make_directory(folder .. '/b/c')
    files.save_text(folder .. '/a', 'x')
    files.save_text(folder .. '/.DS_Store', 'x')
    t.eq(system.list(folder), {'a', 'b'})
    t.eq(system.list(folder .. '/b'), {'c'})
    t.error(function() system.make_directory(folder .. '/a/d') end, '/a: is a file, expected a directory or nothing')
    t.error(function() system.list(folder .. '/nothing') end, 'nothing')
  end)

  t.case('the process', function()
    t.ok(system.process_id() > 1 and system.peak_memory() > 2 ^ 20 and system.processors() >= 1)
    t.error(function() system.is_terminal 'stdour' end, "did you mean 'stdout'")
    t.eq(tostring(system.pending_signal()), 'nil')
  end)
end
