-- What luacheck takes for granted. Globals are errors at run time too (lua/dlv3/core/strict.lua).
std = 'luajit'
cache = false
max_line_length = 120
self = false                    -- methods need not use self
ignore = {
  '212/_.*',                    -- unused arguments that begin with _
  '542',                        -- an empty if branch, with a comment in it
}
files['lua/dlv3/core/strict.lua'] = {ignore = {'122'}}
