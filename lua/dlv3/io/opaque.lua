-- opaque.lua - stands for an object of a file whose class is not on the allow-list: it names the
-- class, and any use of it is an error. Nothing of the object is executed, and nothing of its
-- content is kept.

local F = require 'dlv3.core.ffi'
local bytes = require 'dlv3.io.bytes'

local M = {}

local Opaque = {}
local classes = setmetatable({}, {__mode = 'k'}) -- the values themselves are empty tables

-- A value that stands for an object of the class of this name.
function M.new(class)
  local v = setmetatable({}, Opaque)
  classes[v] = class
  return v
end

-- Whether v stands for an object that was not read.
function M.is(v) return type(v) == 'table' and getmetatable(v) == Opaque end

-- The name of its class.
function M.class(v) return classes[v] end

-- "an object of the class numpy.ndarray"
function M.text(v) return 'an object of the class ' .. bytes.shown(classes[v]) end

-- Raises that v, or the other operand, is used.
local function use(v, other)
  if not M.is(v) then v = other end
  F.raise(M.text(v) .. ' can not be used: files are read without executing anything of them, which leaves plain '
          .. 'values and tensors; in PyTorch, save it as numbers, texts, lists, dicts or tensors')
end

for _, event in ipairs{'index', 'newindex', 'call', 'concat', 'unm', 'add', 'sub', 'mul', 'div', 'mod', 'pow', 'lt',
                       'le'} do
  Opaque['__' .. event] = use
end
Opaque.__tostring = M.text
M.use = use

-- The two lines of PyTorch that make weights of a whole pickled model, or of a TorchScript (loader:
-- torch.jit.load). key: where in the file the model is, or nil.
function M.conversion(path, loader, key)
  local function quoted(s) return "'" .. s:gsub("[\\']", '\\%0') .. "'" end
  local options = loader == 'torch.jit.load' and '' or ', weights_only=False'
  return ("in PyTorch%s:\n  model = %s(%s, map_location='cpu'%s)%s\n"
          .. "  torch.save(model.state_dict(), 'weights.pth')"):format(
         options ~= ''
             and ', where the code of the class can be imported and the file is trusted (this executes what is in it)'
             or '',
         loader, quoted(path), options, key and '[' .. quoted(key) .. ']' or '')
end

return M
