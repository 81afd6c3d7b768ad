-- container.lua - modules that hold others in order.

local F = require 'dlv3.core.ffi'
local Module = require 'dlv3.nn.module'
local expect = require 'dlv3.core.expect'

local M = {}

local function check_part(what, i, layer)
  return expect.argument(what, ('part %s'):format(tostring(i)), layer, expect.value('a module', Module.is))
end

local function add_parts(self, what, list, n)
  for i = 1, n do self[i] = check_part(what, i, list[i]) end
end

-- {{'conv', a}, b}: parts with names of their own, and without.
local function add_named_parts(self, entries)
  for i, entry in ipairs(entries) do
    if type(entry) == 'table' and not Module.is(entry) then
      self[tostring(entry[1])] = check_part('Sequential', entry[1], entry[2])
    else
      self[i] = check_part('Sequential', i, entry)
    end
  end
end

-- Modules one after the other: Sequential(a, b) names them '0', '1'; Sequential{{'conv', a}, {'bn',
-- b}} as written. The parts are seq[1], seq[2], ... and seq['0'] or seq.conv; #seq is their number.
M.Sequential = Module.class('Sequential', function(self, ...)
  local list, n = {...}, select('#', ...)
  if n == 1 and type(list[1]) == 'table' and not Module.is(list[1]) then return add_named_parts(self, list[1]) end
  add_parts(self, 'Sequential', list, n)
end, nil, true)

M.Sequential.folds_neighbours = true -- of fuse.lua

-- x through all parts.
function M.Sequential:forward(x)
  for i = 1, #self do x = self[i](x) end
  return x
end

-- A list of modules, named '0', '1', ...: ModuleList{a, b}. list[i] counts from 1, and list[#list +
-- 1] = m adds one.
M.ModuleList = Module.class('ModuleList', function(self, list)
  list = list or {}
  if Module.is(list) or type(list) ~= 'table' then
    F.raise('ModuleList: expected a table of modules, as in nn.ModuleList{a, b}, got ' .. expect.shown(list))
  end
  add_parts(self, 'ModuleList', list, #list)
end, nil, true)

return M
