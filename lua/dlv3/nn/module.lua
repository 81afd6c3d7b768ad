-- module.lua - what every module is: a plain table that knows the order of its parameters, buffers and children.
--
-- A class is made by nn.module(name, init) and called to make an instance; init(self, ...) assigns the parts. Assigning
-- registers: a module becomes a child, a tensor that requires grad a parameter; buffers are named with self:buffer().
-- Containers (a class with `indexed`) keep their children at 1, 2, ... and know them by name too.
-- No state of a call is kept in a module: what backward needs lies on the tape.

local F = require 'dlv3.core.ffi'
local module_path = require 'dlv3.core.module_path'
local dict = require 'dlv3.core.dict'
local options_table = require 'dlv3.core.options_table'
local autograd = require 'dlv3.core.autograd'
local fuse = require 'dlv3.nn.fuse'
local compile = require 'dlv3.core.compile'
local device_id = require 'dlv3.core.tensor'.device_id
local C, check, raise, is_tensor = F.C, F.check, F.raise, F.is_tensor

local Module = {}
local method_names = {} -- for the completion of containers, whose fields are found by a function

local function is_module(v) return type(v) == 'table' and rawget(v, '_kinds') ~= nil end
Module.is = is_module

-- -- Construction -----------------------------------------------------------------------------------------------

local function kind_of(value)
  return is_module(value) and 'module' or is_tensor(value) and value.requires_grad and value.is_leaf and 'parameter' or nil
end

local function enter(self, key, kind)
  if not self._kinds[key] then self._order[#self._order + 1] = key end
  self._kinds[key] = kind
end

-- A plain table of modules would keep their parameters from the optimiser and from files.
local function check_hidden(self, key, value)
  if type(value) ~= 'table' or is_module(value) then return end
  for _, v in pairs(value) do
    if is_module(v) then raise(("%s: '%s' is a plain table with modules in it, whose parameters nobody would find; make it nn.ModuleList{...}"):format(self.class_name, tostring(key))) end
  end
end

-- Lua calls this for new fields only: a part keeps its place in the order when it is replaced.
local function register(self, key, value)
  local kind = kind_of(value)
  if kind and type(key) ~= 'string' then
    raise(('%s: a part of a module has a name, not the key %s; for a list of modules there is nn.ModuleList'):format(self.class_name, tostring(key)))
  end
  if kind then enter(self, key, kind) else check_hidden(self, key, value) end
  if kind == 'module' then rawset(value, '_name', key) end
  rawset(self, key, value)
end

-- The same in a container. Children lie at 1, 2, ..., also when they are assigned by name, so that the two never differ.
local function register_child(self, key, value)
  if not is_module(value) then
    if type(key) == 'number' or self._slots[key] then raise(('%s: part %s must be a module, a %s came'):format(self.class_name, tostring(key), type(value))) end
    return register(self, key, value)
  end
  local slot = type(key) == 'number' and key or self._slots[key] or #self + 1
  if slot > #self + 1 or slot < 1 or slot ~= math.floor(slot) then raise(('%s: there is no part %s to replace; it has %d'):format(self.class_name, tostring(key), #self)) end
  if slot > #self then
    local name = type(key) == 'number' and tostring(key - 1) or key
    while type(key) == 'number' and self._slots[name] do name = tostring(tonumber(name) + 1) end -- a number of its own where names have gaps
    self._slots[name] = slot
    enter(self, name, 'module')
    rawset(value, '_name', name)
  end
  rawset(self, slot, value)
end

local function leave(depth, ...)
  module_path.reset(depth)
  return ...
end

-- A module with `checkpointed` set keeps nothing from its forward to its backward but x (recompute.lua).
local function forward(self, ...)
  if not (self.checkpointed and self.training) then return self:forward(...) end
  return require 'dlv3.core.recompute'.recompute(function(x) return self:forward(x) end, ...)
end

local function call(self, ...) return leave(module_path.push(self), forward(self, ...)) end

module_path.frame = call

local function describe(self) return self:describe() end

-- A class of modules; init(self, ...) runs when it is called. parent: a class to take methods from; indexed: its
-- children are numbered.
function Module.class(name, init, parent, indexed)
  if type(name) ~= 'string' or type(init) ~= 'function' then raise("nn.module: takes a name and a function, as in nn.module('Head', function(self, ...) ... end)") end
  local class = {class_name = name, init = init}
  local instance = {__index = class, __newindex = register, __call = call, __tostring = describe}
  if indexed then
    instance.__newindex, instance.__names = register_child, method_names
    instance.__index = function(self, key)
      local slot = rawget(self, '_slots')[key]
      if slot then return rawget(self, slot) end
      return class[key]
    end
  end
  return setmetatable(class, {
    __index = parent or Module,
    __call = function(_, ...)
      local self = setmetatable({_order = {}, _kinds = {}, _slots = indexed and {} or nil, training = true}, instance)
      init(self, ...)
      return self
    end,
  })
end

function Module:forward() raise("module '" .. tostring(self.class_name) .. "' has no forward(self, x)") end

-- x, when it is a tensor: self:input(x):relu() in a forward tells a wrong argument by the module's name.
function Module:input(x)
  if not is_tensor(x) then raise(('%s: x must be a tensor, %s came'):format(self.class_name, x == nil and 'nothing' or 'a ' .. type(x))) end
  return x
end

-- A tensor that is saved and moved with the module but not learned.
function Module:buffer(name, tensor)
  if type(name) ~= 'string' or not is_tensor(tensor) then raise('buffer: takes a name and a tensor') end
  enter(self, name, 'buffer')
  rawset(self, name, tensor)
end

-- -- Walking ----------------------------------------------------------------------------------------------------

-- Registers what took the place of a field that was no part (`self.head = false`, later a module): Lua does not call
-- register for those. Refuses what took the place of a parameter and is none.
local function adopt(self)
  local late
  for key, value in pairs(self) do
    local registered = self._kinds[key]
    if type(key) == 'string' and not registered and kind_of(value) then
      late = late or {}
      late[#late + 1] = key
    elseif registered == 'parameter' and not (is_tensor(value) and value.is_leaf) then
      raise(("%s: the parameter '%s' was replaced by %s; a parameter is changed by self.%s:copy_(...) under dlv3.no_grad, or replaced by nn.Parameter(...)"):format(
            self.class_name, key, is_tensor(value) and 'the result of an operation' or 'a ' .. type(value), key))
    end
  end
  if not late then return end
  table.sort(late)
  for _, key in ipairs(late) do enter(self, key, kind_of(self[key])) end
end

-- Calls visit(prefix, module) for this module and all below, parents first.
local function walk(self, prefix, visit)
  adopt(self)
  visit(prefix, self)
  for _, key in ipairs(self._order) do
    local child = self._kinds[key] == 'module' and self[key]
    if is_module(child) then
      rawset(child, '_name', key) -- a child that was replaced did not pass by register
      walk(child, prefix .. key .. '.', visit)
    end
  end
end

-- The parts of a kind in definition order: names and values. One that is shared comes once.
local function parts(self, kind)
  local names, values, seen = {}, {}, {}
  walk(self, '', function(prefix, module)
    for _, key in ipairs(module._order) do
      local value = module._kinds[key] == kind and module[key]
      if is_tensor(value) then
        local id = tonumber(F.cast('intptr_t', value.p))
        if not seen[id] then
          seen[id] = true
          names[#names + 1], values[#values + 1] = prefix .. key, value
        end
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

-- for name, p in model:named_parameters() do
function Module:named_parameters() return iterate(parts(self, 'parameter')) end
function Module:named_buffers() return iterate(parts(self, 'buffer')) end

-- for name, module in model:named_modules() do: the module itself (''), then all below, each once.
function Module:named_modules()
  local names, values, seen = {}, {}, {}
  walk(self, '', function(prefix, module)
    if seen[module] then return end
    seen[module] = true
    names[#names + 1], values[#values + 1] = prefix:sub(1, -2), module
  end)
  return iterate(names, values)
end

-- The modules right below, in order.
function Module:children()
  local list = {}
  for _, key in ipairs(self._order) do
    if self._kinds[key] == 'module' and is_module(self[key]) then list[#list + 1] = self[key] end
  end
  return list
end

-- "convs.1.0": where a module is below this one; nil where it is not.
function Module:path_to(module)
  for _, key in ipairs(self._order) do
    local child = self._kinds[key] == 'module' and self[key]
    if is_module(child) then
      if child == module then return key end
      local below = child:path_to(module)
      if below then return key .. '.' .. below end
    end
  end
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

-- Batch norm and dropout behave as in training; train(false) is eval(). Returns the model.
function Module:train(on)
  if on == nil then on = true end
  if type(on) ~= 'boolean' then raise('train: true or false is expected, ' .. tostring(on) .. ' came') end
  if on then self:apply(function(module) fuse.refuse(module, 'train') end) end
  return self:apply(function(module)
    if module.training ~= on then compile.modes = compile.modes + 1 end -- recorded programs have the old mode in them
    rawset(module, 'training', on)
  end)
end

function Module:eval() return self:train(false) end

-- Makes a model in eval mode quicker and smaller, for inference only: batch norms become part of the convolutions before
-- them. Changes the model and returns it; the results agree within rounding. model:eval():fuse().
function Module:fuse() return fuse.fuse(self) end

-- Whether the parameters learn (default true); frozen ones stay out of an optimiser made afterwards.
function Module:requires_grad_(on)
  for _, p in self:named_parameters() do p:requires_grad_(on) end
  return self
end

-- Takes the gradients away; an optimiser's own zero_grad is quicker.
function Module:zero_grad()
  for _, p in self:named_parameters() do p.grad = nil end
end

-- Moves parameters and buffers in place: to('cuda:0'), to('cpu', 'f64'). An optimiser is made afterwards.
function Module:to(device, dtype)
  if dtype == nil and (F.dtype_id[device] or F.dtype_elsewhere[device]) then device, dtype = nil, device end
  if dtype and dtype ~= 'f32' and dtype ~= 'f64' then
    if F.dtype_elsewhere[dtype] then raise('to: ' .. F.no_dtype(dtype)) end
    if F.dtype_id[dtype] == nil then options_table.one_of('to', 'the dtype', dtype, {'f32', 'f64'}) end
    raise(("to: parameters stay f32 (f64 for checks), not %s; the images' dtype selects the precision: model(x:to('%s'))"):format(dtype, dtype))
  end
  local id, dtype_id = device and device_id(device), dtype and F.dtype_id[dtype]
  for _, kind in ipairs {'parameter', 'buffer'} do
    local _, values = parts(self, kind)
    for _, t in ipairs(values) do
      local is_float = t.dtype == 'f32' or t.dtype == 'f64'
      local same_device = not id or C.dlv3_tensor_device(t.p) == id
      local same_dtype = not dtype_id or not is_float or C.dlv3_tensor_dtype(t.p) == dtype_id
      if not (same_device and same_dtype) then
        local moved = t:detach():to(device or t.device, is_float and dtype or t.dtype)
        check(C.dlv3_tensor_assign(t.p, moved.p))
      end
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
    fuse.refuse(module, 'state_dict')
    for _, kind in ipairs {'parameter', 'buffer'} do
      for _, key in ipairs(module._order) do
        if module._kinds[key] == kind and is_tensor(module[key]) then sd[prefix .. key] = module[key]:detach() end
      end
    end
  end)
  return sd
end

local function sizes_text(t) return is_tensor(t) and '[' .. table.concat(t:size(), ', ') .. ']' or 'a ' .. type(t) end

-- What differs: names that sd lacks, that the model lacks, and lines on those whose sizes differ.
local function compare(own, sd)
  local missing, unexpected, wrong = {}, {}, {}
  for name, t in dict.items(own) do
    local value = sd[name]
    if is_tensor(value) then
      if sizes_text(value) ~= sizes_text(t) then wrong[#wrong + 1] = ('%s: the file has %s, the model %s'):format(name, sizes_text(value), sizes_text(t)) end
    elseif not name:find 'num_batches_tracked$' then missing[#missing + 1] = name end -- files from before 2018 lack these
  end
  for name in dict.items(sd) do
    if own[name] == nil then unexpected[#unexpected + 1] = name end
  end
  return missing, unexpected, wrong
end

local function with_sizes(names, tensors)
  local lines = {}
  for i, name in ipairs(names) do lines[i] = tostring(name) .. ' ' .. sizes_text(tensors[name]) end
  return lines
end

local function section(lines, title, entries)
  if #entries > 0 then lines[#lines + 1] = ('  %s (%d):\n    %s'):format(title, #entries, table.concat(entries, '\n    ')) end
end

-- A dict of something else is not worth a list of all that it lacks.
local function check_any(own, sd, missing)
  if #missing == 0 or #missing < dict.size(own) / 2 then return end
  for name in dict.items(own) do if sd[name] ~= nil and not name:find 'num_batches_tracked$' then return end end
  local first, n = {}, 0
  for name, v in dict.items(sd) do
    n = n + 1
    if n <= 4 then first[n] = tostring(name) .. (is_tensor(v) and '' or ' (a ' .. type(v) .. ')') end
  end
  raise(("load_state_dict: no name of the model is in the state dict (dlv3.checkpoint's load_weights looks inside of checkpoints and under prefixes)\n  it has %s%s\n  the model has %s, ..."):format(
        n > 0 and table.concat(first, ', ') or 'nothing', n > 4 and ', ...' or '', missing[1]))
end

-- Copies what sd has into the model. strict (the default): every name on both sides must match. Returns the names
-- that sd lacks and those that the model lacks. Sizes must agree in any case; nothing is copied on an error.
function Module:load_state_dict(sd, options)
  local strict = options_table('load_state_dict', {strict = true}, options).strict
  if type(sd) ~= 'table' then raise('load_state_dict: takes a state dict, as from dlv3.load(path); a ' .. type(sd) .. ' came') end
  local own = self:state_dict()
  local missing, unexpected, wrong = compare(own, sd)
  if strict then check_any(own, sd, missing) end
  local lines = {}
  section(lines, 'sizes differ', wrong)
  if strict then
    section(lines, 'missing', with_sizes(missing, own))
    section(lines, 'unexpected', with_sizes(unexpected, sd))
  end
  if #lines > 0 then
    raise("load_state_dict: the state dict does not fit the model (dlv3.checkpoint's load_weights takes what fits)\n" .. table.concat(lines, '\n'))
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
    local child = self._kinds[key] == 'module' and self[key]
    if is_module(child) then lines[#lines + 1] = ('%s  (%s): %s'):format(indent, key, child:describe(indent .. '  ')) end
  end
  local head = self.class_name .. '(' .. self:extra()
  return #lines == 0 and head .. ')' or head .. '\n' .. table.concat(lines, '\n') .. '\n' .. indent .. ')'
end

for name in pairs(Module) do method_names[#method_names + 1] = name end

return Module
