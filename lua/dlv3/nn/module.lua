-- module.lua - what every module is: a plain table that knows the order of its parameters, buffers and children.
--
-- A class is made by nn.module(name, init) and called to make an instance; init(self, ...) assigns the parts. Assigning
-- registers: a module becomes a child, a tensor that requires grad a parameter; buffers are named with self:buffer().
-- No state of a call is kept in a module: what backward needs lies on the tape.

local F = require 'dlv3.ffi'
local path = require 'dlv3.path'
local dict = require 'dlv3.dict'
local nearest = require 'dlv3.nearest'
local autograd = require 'dlv3.autograd'
local C, check, raise, is_tensor = F.C, F.check, F.raise, F.is_tensor

local Module = {}

local function is_module(v) return type(v) == 'table' and rawget(v, '_kinds') ~= nil end
Module.is = is_module

-- -- Construction -----------------------------------------------------------------------------------------------

-- Lua calls this for new fields only: a part keeps its place in the order when it is replaced.
local function register(self, key, value)
  local kind = is_module(value) and 'module' or is_tensor(value) and value.requires_grad and value.is_leaf and 'parameter'
  if kind and type(key) == 'string' then
    if not self._kinds[key] then self._order[#self._order + 1] = key end
    self._kinds[key] = kind
    if kind == 'module' then rawset(value, '_name', key) end
  end
  rawset(self, key, value)
end

local function call(self, ...)
  path.push(rawget(self, '_name') or '')
  local function done(...)
    path.pop()
    return ...
  end
  return done(self:forward(...))
end

-- A class of modules; init(self, ...) runs when it is called. parent: a class to take methods from.
function Module.class(name, init, parent)
  local class = {class_name = name, init = init}
  local instance = {__index = class, __newindex = register, __call = call, __tostring = function(self) return self:describe() end}
  return setmetatable(class, {
    __index = parent or Module,
    __call = function(_, ...)
      local self = setmetatable({_order = {}, _kinds = {}, training = true}, instance)
      init(self, ...)
      return self
    end,
  })
end

function Module:forward() raise("module '" .. tostring(self.class_name) .. "' has no forward(self, x)") end

-- A tensor that is saved and moved with the module but not learned.
function Module:buffer(name, tensor)
  if not self._kinds[name] then self._order[#self._order + 1] = name end
  self._kinds[name] = 'buffer'
  rawset(self, name, tensor)
end

-- -- Walking ----------------------------------------------------------------------------------------------------

-- Calls visit(prefix, module) for this module and all below, parents first.
local function walk(self, prefix, visit)
  visit(prefix, self)
  for _, key in ipairs(self._order) do
    if self._kinds[key] == 'module' and is_module(self[key]) then walk(self[key], prefix .. key .. '.', visit) end
  end
end

-- The parts of a kind in definition order: names and values.
local function parts(self, kind)
  local names, values = {}, {}
  walk(self, '', function(prefix, module)
    for _, key in ipairs(module._order) do
      if module._kinds[key] == kind and module[key] ~= nil then
        names[#names + 1], values[#values + 1] = prefix .. key, module[key]
      end
    end
  end)
  return names, values
end

local function iterate(names, values)
  local i = 0
  return function()
    i = i + 1
    return names[i], values[i]
  end
end

function Module:parameters()
  local _, values = parts(self, 'parameter')
  return values
end

function Module:named_parameters() return iterate(parts(self, 'parameter')) end
function Module:named_buffers() return iterate(parts(self, 'buffer')) end

function Module:named_modules()
  local names, values = {}, {}
  walk(self, '', function(prefix, module) names[#names + 1], values[#values + 1] = prefix:sub(1, -2), module end)
  return iterate(names, values)
end

function Module:children()
  local list = {}
  for _, key in ipairs(self._order) do
    if self._kinds[key] == 'module' then list[#list + 1] = self[key] end
  end
  return list
end

function Module:num_parameters()
  local n = 0
  for _, p in self:named_parameters() do n = n + p:numel() end
  return n
end

-- Calls fn(module) for this module and all below; returns the module.
function Module:apply(fn)
  walk(self, '', function(_, module) fn(module) end)
  return self
end

-- -- Modes --------------------------------------------------------------------------------------------------------

function Module:train(on)
  if on == nil then on = true end
  return self:apply(function(module) rawset(module, 'training', on) end)
end

function Module:eval() return self:train(false) end

-- Whether the parameters learn; frozen ones stay out of an optimiser made afterwards.
function Module:requires_grad_(on)
  for _, p in self:named_parameters() do p:requires_grad_(on) end
  return self
end

function Module:zero_grad()
  for _, p in self:named_parameters() do p.grad = nil end
end

-- Moves parameters and buffers in place: to('cuda:0'), to('cpu', 'f64').
function Module:to(device, dtype)
  if dtype == nil and F.dtype_id[device] then device, dtype = nil, device end
  if dtype and dtype ~= 'f32' and dtype ~= 'f64' then
    raise(("to: parameters stay f32 (f64 for checks), not %s; the images' dtype selects the precision: model(x:to('%s'))"):format(tostring(dtype), tostring(dtype)))
  end
  for _, kind in ipairs {'parameter', 'buffer'} do
    local _, values = parts(self, kind)
    for _, t in ipairs(values) do
      local float = t.dtype == 'f32' or t.dtype == 'f64'
      local moved = t:detach():to(device or t.device, float and dtype or t.dtype)
      if moved.dtype ~= t.dtype or moved.device ~= t.device then check(C.dlv3_tensor_assign(t.p, moved.p)) end
    end
  end
  return self
end

-- -- State dicts --------------------------------------------------------------------------------------------------

-- An ordered dict of all parameters and buffers, in PyTorch's order: of each module its parameters, its buffers, then
-- its children. The tensors share the model's memory.
function Module:state_dict()
  local sd = dict.new()
  walk(self, '', function(prefix, module)
    for _, kind in ipairs {'parameter', 'buffer'} do
      for _, key in ipairs(module._order) do
        if module._kinds[key] == kind and module[key] ~= nil then sd[prefix .. key] = module[key]:detach() end
      end
    end
  end)
  return sd
end

local function sizes_text(t) return '[' .. table.concat(t:size(), ', ') .. ']' end

-- Copies what sd has into the model. strict (the default): every name on both sides must match. Returns the names
-- that sd lacks and those that the model lacks.
function Module:load_state_dict(sd, options)
  local strict = true
  for name, v in pairs(options or {}) do
    if name ~= 'strict' then raise(("load_state_dict: no option '%s'%s (has: strict)"):format(tostring(name), nearest.text(tostring(name), {'strict'}))) end
    strict = v
  end
  local own = self:state_dict()
  local missing, unexpected, wrong = {}, {}, {}
  for name, t in dict.items(own) do
    local given = sd[name]
    if not is_tensor(given) then missing[#missing + 1] = name
    elseif sizes_text(given) ~= sizes_text(t) then wrong[#wrong + 1] = ('%s: the file has %s, the model %s'):format(name, sizes_text(given), sizes_text(t)) end
  end
  for name in dict.items(sd) do
    if own[name] == nil then unexpected[#unexpected + 1] = name end
  end
  local lines = {}
  if #wrong > 0 then lines[#lines + 1] = 'sizes differ:\n    ' .. table.concat(wrong, '\n    ') end
  if strict and #missing > 0 then lines[#lines + 1] = 'missing: ' .. table.concat(missing, ', ') end
  if strict and #unexpected > 0 then lines[#lines + 1] = 'unexpected: ' .. table.concat(unexpected, ', ') end
  if #lines > 0 then
    raise("load_state_dict: the state dict does not fit the model (dlv3.checkpoint's load_weights takes what fits)\n  " .. table.concat(lines, '\n  '))
  end
  autograd.no_grad(function()
    for name, t in dict.items(own) do
      if is_tensor(sd[name]) then t:copy_(sd[name]) end
    end
  end)
  return missing, unexpected
end

-- -- Text -----------------------------------------------------------------------------------------------------------

function Module:extra() return '' end -- "3, 16, kernel_size = 3": what a layer says of itself

function Module:describe(indent)
  indent = indent or ''
  local lines = {}
  for _, key in ipairs(self._order) do
    if self._kinds[key] == 'module' then lines[#lines + 1] = ('%s  (%s): %s'):format(indent, key, self[key]:describe(indent .. '  ')) end
  end
  local head = self.class_name .. '(' .. self:extra()
  return #lines == 0 and head .. ')' or head .. '\n' .. table.concat(lines, '\n') .. '\n' .. indent .. ')'
end

return Module
