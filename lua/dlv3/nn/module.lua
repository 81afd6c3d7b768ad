-- module.lua - what every module is: a plain table that knows the order of its parameters, buffers
-- and children.
--
-- A class is made by nn.module(name, init) and called to make an instance; init(self, ...) assigns
-- the parts. Assigning registers: a module becomes a child, a tensor that requires gradients a
-- parameter; self:buffer() adds buffers. Containers (a class with `indexed`) hold their children at
-- 1, 2, ... and by name too.
-- A module keeps no state of a call: what backward needs is on the tape.

local F = require 'dlv3.core.ffi'
local module_path = require 'dlv3.core.module_path'
local dict = require 'dlv3.core.dict'
local expect = require 'dlv3.core.expect'
local autograd = require 'dlv3.core.autograd'
local fuse = require 'dlv3.nn.fuse'
local compile = require 'dlv3.core.compile'
local device_id = require 'dlv3.core.tensor'.device_id
local C, check, raise, is_tensor = F.C, F.check, F.raise, F.is_tensor

local Module = {}
local method_names = {} -- for the completion of containers, whose fields are found by a function

-- Whether v is a module.
local function is_module(v) return type(v) == 'table' and rawget(v, '_kinds') ~= nil end
Module.is = is_module

-- -- Construction ---------------------------------------------------------------------------------

local function kind_of(value)
  if is_module(value) then return 'module' end
  if is_tensor(value) and value.requires_grad and value.is_leaf then return 'parameter' end
end

-- Notes that the field `key` is a part of this kind; it goes to the end of the order where it is
-- new.
local function enter_part(self, key, kind)
  if not self._kinds[key] then self._order[#self._order + 1] = key end
  self._kinds[key] = kind
end

-- A plain table of modules would hide their parameters from the optimiser and from files.
local function check_hidden(self, key, value)
  if type(value) ~= 'table' or is_module(value) then return end
  for _, v in pairs(value) do
    if is_module(v) then
      raise(("%s: '%s' is a plain table with modules in it, whose parameters would not be found: use "
             .. "nn.ModuleList{...}"):format(
            self.class_name, tostring(key)))
    end
  end
end

-- Lua calls this for new fields only: a part keeps its place in the order when it is replaced.
local function register(self, key, value)
  local kind = kind_of(value)
  if kind and type(key) ~= 'string' then
    raise(('%s: expected a name for a part of a module, got the key %s: use nn.ModuleList for a list of '
           .. 'modules'):format(self.class_name, tostring(key)))
  end
  if kind then
    enter_part(self, key, kind)
  else
    check_hidden(self, key, value)
  end
  if kind == 'module' then rawset(value, '_name', key) end
  rawset(self, key, value)
end

-- The same in a container. Children lie at 1, 2, ..., also when they are assigned by name, so that
-- the two never differ.
local function register_child(self, key, value)
  if not is_module(value) then
    if type(key) == 'number' or self._slots[key] then
      raise(('%s: part %s: expected a module, got %s'):format(self.class_name, tostring(key), expect.shown(value)))
    end
    return register(self, key, value)
  end
  local slot = type(key) == 'number' and key or self._slots[key] or #self + 1
  if slot > #self + 1 or slot < 1 or slot ~= math.floor(slot) then
    raise(('%s: no part %s to replace: it has %d parts'):format(self.class_name, tostring(key), #self))
  end
  if slot > #self then
    local name = type(key) == 'number' and tostring(key - 1) or key
    -- a number of its own where names have gaps
    while type(key) == 'number' and self._slots[name] do name = tostring(tonumber(name) + 1) end
    self._slots[name] = slot
    enter_part(self, name, 'module')
    rawset(value, '_name', name)
  end
  rawset(self, slot, value)
end

local function leave_call(depth, ...)
  module_path.reset(depth)
  return ...
end

-- A module with `checkpointed` set saves nothing for backward but x (recompute.lua).
local function forward(self, ...)
  if not (self.checkpointed and self.training) then return self:forward(...) end
  return require 'dlv3.core.recompute'.recompute(function(x) return self:forward(x) end, ...)
end

local function call(self, ...) return leave_call(module_path.push(self), forward(self, ...)) end

module_path.frame = call

local function describe(self) return self:describe() end

-- module(name, init): a class of modules; calling it makes one and runs init(self, ...), which
-- assigns the parts.
-- parent: a class to take methods from; indexed: its children are numbered.
function Module.class(name, init, parent, indexed)
  if type(name) ~= 'string' or type(init) ~= 'function' then
    raise("nn.module: expected a name and a function, as in nn.module('Head', function(self, ...) ... end)")
  end
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

-- What a call of the module computes; each class writes its own.
function Module:forward() raise("module '" .. tostring(self.class_name) .. "' has no forward(self, x): write one") end

-- x where it is a tensor, else an error with the module's name: self:input(x):relu() in a forward.
function Module:input(x) return expect.argument(self.class_name, 'x', x, expect.tensor) end

-- Adds a tensor that is saved and moved with the module but not trained: self[name] from then on.
-- owner: a tensor that it is to outlive dlv3.scope with, such as the weight that it is made of.
function Module:buffer(name, tensor, owner)
  if type(name) ~= 'string' or not is_tensor(tensor) then
    raise(('buffer: expected a name and a tensor, got %s and %s'):format(expect.shown(name), expect.shown(tensor)))
  end
  enter_part(self, name, 'buffer')
  rawset(self, name, tensor)
  if owner then C.dlv3_scope_inherit(tensor.p, owner.p) end
end

-- -- Traversal ------------------------------------------------------------------------------------

-- Registers what took the place of a field that was no part (`self.head = false`, later a module):
-- Lua does not call register for those. Refuses what took the place of a parameter and is none.
local function register_late(self)
  local late
  for key, value in pairs(self) do
    local registered = self._kinds[key]
    if type(key) == 'string' and not registered and kind_of(value) then
      late = late or {}
      late[#late + 1] = key
    elseif registered == 'parameter' and not (is_tensor(value) and value.is_leaf) then
      local what = is_tensor(value) and 'the result of an operation' or expect.shown(value)
      raise(("%s: the parameter '%s' was replaced by %s: change it by self.%s:copy_(...) under dlv3.no_grad, or "
             .. "assign an nn.Parameter(...)"):format(
            self.class_name, key, what, key))
    end
  end
  if not late then return end
  table.sort(late)
  for _, key in ipairs(late) do enter_part(self, key, kind_of(self[key])) end
end

-- Calls visit(prefix, module) for this module and all below, parents first.
local function visit_modules(self, prefix, visit)
  register_late(self)
  visit(prefix, self)
  for _, key in ipairs(self._order) do
    local child = self._kinds[key] == 'module' and self[key]
    if is_module(child) then
      rawset(child, '_name', key) -- a child that was replaced did not pass by register
      visit_modules(child, prefix .. key .. '.', visit)
    end
  end
end

-- The parts of a kind in definition order: names and values. A shared one is listed once.
local function parts(self, kind)
  local names, values, seen = {}, {}, {}
  visit_modules(self, '', function(prefix, module)
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

-- All parameters, each once: an array in definition order.
function Module:parameters()
  local _, values = parts(self, 'parameter')
  return values
end

-- for name, p in model:named_parameters() do: "layer1.0.conv1.weight" and the parameter, in
-- definition order, each once.
function Module:named_parameters() return iterate(parts(self, 'parameter')) end
-- for name, b in model:named_buffers() do: as named_parameters.
function Module:named_buffers() return iterate(parts(self, 'buffer')) end

-- for name, module in model:named_modules() do: the module itself (''), then all below, each once.
function Module:named_modules()
  local names, values, seen = {}, {}, {}
  visit_modules(self, '', function(prefix, module)
    if seen[module] then return end
    seen[module] = true
    names[#names + 1], values[#values + 1] = prefix:sub(1, -2), module
  end)
  return iterate(names, values)
end

-- The modules one level below: an array in definition order.
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

-- The number of elements of all parameters.
function Module:num_parameters()
  local n = 0
  for _, p in self:named_parameters() do n = n + p:numel() end
  return n
end

-- Calls fn(module) for this module and all below; returns the module.
function Module:apply(fn)
  visit_modules(self, '', function(_, module) fn(module) end)
  return self
end

-- -- Modes ----------------------------------------------------------------------------------------

-- Batch norm and dropout behave as in training; train(false) is eval(). Returns the model.
function Module:train(on)
  if on == nil then on = true end
  expect.argument('train', 'on', on, expect.flag)
  if on then self:apply(function(module) fuse.refuse(module, 'train') end) end
  return self:apply(function(module)
    if module.training ~= on then compile.modes = compile.modes + 1 end -- recorded programs contain the old mode
    rawset(module, 'training', on)
  end)
end

-- Batch norm and dropout behave as in inference. Returns the model.
function Module:eval() return self:train(false) end

-- Makes a model in eval mode faster and smaller, for inference only: batch norms are folded into
-- the convolutions before them. Changes the model and returns it; results agree within rounding.
-- model:eval():fuse().
function Module:fuse() return fuse.fuse(self) end

-- Whether the parameters require gradients (on: true); frozen ones are left alone by an optimiser
-- made afterwards.
-- Returns the model.
function Module:requires_grad_(on)
  for _, p in self:named_parameters() do p:requires_grad_(on) end
  return self
end

-- Removes the gradients of all parameters; an optimiser's own zero_grad is faster.
function Module:zero_grad()
  for _, p in self:named_parameters() do p.grad = nil end
end

-- Moves parameters and buffers in place: to('cuda:0'), to('f64'), to('cpu', 'f64'). They keep the
-- scope in which they were made (dlv3.scope). Make the optimiser afterwards. Returns the model.
function Module:to(device, dtype)
  if dtype == nil and (F.dtype_id[device] or F.dtype_elsewhere[device]) then device, dtype = nil, device end
  if dtype and dtype ~= 'f32' and dtype ~= 'f64' then
    if F.dtype_elsewhere[dtype] then raise('to: ' .. F.no_dtype(dtype)) end
    if F.dtype_id[dtype] == nil then expect.argument('to', 'the dtype', dtype, expect.one_of{'f32', 'f64'}) end
    raise(("to: parameters stay f32 (f64 for checks), not %s: the dtype of the images selects the precision: "
           .. "model(x:to('%s'))"):format(
          dtype, dtype))
  end
  local id, dtype_id = device and device_id(device), dtype and F.dtype_id[dtype]
  for _, kind in ipairs {'parameter', 'buffer'} do
    local _, values = parts(self, kind)
    for _, t in ipairs(values) do
      local is_float = t.dtype == 'f32' or t.dtype == 'f64'
      local moves = id ~= nil and C.dlv3_tensor_device(t.p) ~= id
      local casts = dtype_id ~= nil and is_float and C.dlv3_tensor_dtype(t.p) ~= dtype_id
      if moves or casts then
        local moved = t:detach():to(device or t.device, casts and dtype or t.dtype)
        check(C.dlv3_tensor_assign(t.p, moved.p))
      end
    end
  end
  return self
end

-- -- State dicts ----------------------------------------------------------------------------------

-- An ordered dict of all parameters and buffers, in PyTorch's order: of each module its parameters,
-- its buffers, then its children. The tensors share the model's memory.
function Module:state_dict()
  local sd = dict.new()
  visit_modules(self, '', function(prefix, module)
    fuse.refuse(module, 'state_dict')
    for _, kind in ipairs {'parameter', 'buffer'} do
      for _, key in ipairs(module._order) do
        local value = module._kinds[key] == kind and module[key]
        if is_tensor(value) then sd[prefix .. key] = value:detach() end
      end
    end
  end)
  return sd
end

local function sizes_text(t) return is_tensor(t) and '[' .. table.concat(t:size(), ', ') .. ']' or 'a ' .. type(t) end

-- Files from before 2018 lack these.
local function is_optional(name) return name:find 'num_batches_tracked$' ~= nil end

-- What differs: names that sd lacks, names that the model lacks, and lines on those whose sizes
-- differ.
local function compare(own, sd)
  local missing, unexpected, wrong = {}, {}, {}
  for name, t in dict.items(own) do
    local value = sd[name]
    if is_tensor(value) then
      local sizes, own_sizes = sizes_text(value), sizes_text(t)
      if sizes ~= own_sizes then
        wrong[#wrong + 1] = ('%s: the file has %s, the model %s'):format(name, sizes, own_sizes)
      end
    elseif not is_optional(name) then
      missing[#missing + 1] = name
    end
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
  if #entries > 0 then
    lines[#lines + 1] = ('  %s (%d):\n    %s'):format(title, #entries, table.concat(entries, '\n    '))
  end
end

-- A dict in which no name of the model occurs is an error of its own, shorter than a list of all
-- that it lacks.
local function check_any_name(own, sd, missing)
  if #missing == 0 or #missing < dict.size(own) / 2 then return end
  for name in dict.items(own) do
    if sd[name] ~= nil and not is_optional(name) then return end
  end
  local first, n = {}, 0
  for name, v in dict.items(sd) do
    n = n + 1
    if n <= 4 then first[n] = tostring(name) .. (is_tensor(v) and '' or ' (a ' .. type(v) .. ')') end
  end
  raise(('load_state_dict: no name of the model is in the state dict '
         .. "(dlv3.checkpoint's load_weights looks inside checkpoints and under prefixes)\n  it has %s%s\n  the "
            .. "model has %s, ..."):format(
        n > 0 and table.concat(first, ', ') or 'nothing', n > 4 and ', ...' or '', missing[1]))
end

-- load_state_dict(sd, {strict = true}): copies the tensors of sd into the model. strict: every name
-- on both sides must match. Returns two lists: the names that sd lacks and those that the model
-- lacks. Sizes must agree in any case; nothing is copied on an error.
function Module:load_state_dict(sd, options)
  local strict = expect.options('load_state_dict', {strict = true}, options).strict
  if type(sd) ~= 'table' then
    raise('load_state_dict: expected a state dict, as from dlv3.load(path), got ' .. expect.shown(sd))
  end
  local own = self:state_dict()
  local missing, unexpected, wrong = compare(own, sd)
  if strict then check_any_name(own, sd, missing) end
  local lines = {}
  section(lines, 'sizes differ', wrong)
  if strict then
    section(lines, 'missing', with_sizes(missing, own))
    section(lines, 'unexpected', with_sizes(unexpected, sd))
  end
  if #lines > 0 then
    raise("load_state_dict: the state dict does not fit the model (dlv3.checkpoint's load_weights takes what fits)\n"
          .. table.concat(lines, '\n'))
  end
  autograd.no_grad(function()
    for name, t in dict.items(own) do
      if is_tensor(sd[name]) then t:copy_(sd[name]) end
    end
  end)
  return missing, unexpected
end

-- -- Text -----------------------------------------------------------------------------------------

-- What print shows of a layer between its brackets, "3, 16, kernel_size = 3"; a class writes its
-- own.
function Module:extra() return '' end

-- The module and all below as text, one a line: what print shows.
function Module:describe(indent)
  indent = indent or ''
  local lines = {}
  for _, key in ipairs(self._order) do
    local child = self._kinds[key] == 'module' and self[key]
    if is_module(child) then
      lines[#lines + 1] = ('%s  (%s): %s'):format(indent, key, child:describe(indent .. '  '))
    end
  end
  local head = self.class_name .. '(' .. self:extra()
  if #lines == 0 then return head .. ')' end
  return head .. '\n' .. table.concat(lines, '\n') .. '\n' .. indent .. ')'
end

for name in pairs(Module) do method_names[#method_names + 1] = name end

return Module
