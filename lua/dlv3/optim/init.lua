-- optim - SGD over flat arenas, and learning-rate schedules.
--
-- The parameters of a group lie one after the other in one tensor, so do their gradients and momenta: clearing the
-- gradients is one fill, a step one pass. The parameters are moved there when the optimiser is made; they stay what
-- they were to the model, which shares the memory.

local F = require 'dlv3.ffi'
local tensor = require 'dlv3.tensor'
local autograd = require 'dlv3.autograd'
local dict = require 'dlv3.dict'
local nearest = require 'dlv3.nearest'
local schedule = require 'dlv3.optim.schedule'
local C, check, raise = F.C, F.check, F.raise

local optim = {poly = schedule.poly, multistep = schedule.multistep, cosine = schedule.cosine, constant = schedule.constant}

local SGD = {}
SGD.__index = SGD

local align = 16 -- elements: every parameter starts on a cache line

-- Flat storage for a group's parameters that learn: {p, grad, momentum, slices = {{param, offset}}}
local function arena_of(params)
  local first, total, slices = nil, 0, {}
  for _, p in ipairs(params) do
    if p.requires_grad then
      first = first or p
      if p.dtype ~= first.dtype or p.device ~= first.device then raise('SGD: the parameters of a group must be of one dtype and on one device') end
      slices[#slices + 1] = {p, total}
      total = total + math.ceil(p:numel() / align) * align
    end
  end
  if not first then return nil end
  local options = {dtype = first.dtype, device = first.device}
  local arena = {p = tensor.zeros({total}, options), grad = tensor.zeros({total}, options), slices = slices}
  for _, slice in ipairs(slices) do
    local p, offset = slice[1], slice[2]
    local grad = tensor.empty(p:size(), options)
    check(C.dlv3_tensor_rebase(p.p, arena.p.p, offset))
    check(C.dlv3_tensor_rebase(grad.p, arena.grad.p, offset))
    p.grad = grad
  end
  return arena
end

local defaults = {lr = 1e-3, momentum = 0, weight_decay = 0, nesterov = false}

local function merge(what, into, given)
  local names = {'lr', 'momentum', 'weight_decay', 'nesterov', 'params'}
  for name, v in pairs(given) do
    if defaults[name] == nil and name ~= 'params' then
      raise(("%s: no option '%s'%s (has: lr, momentum, weight_decay, nesterov)"):format(what, tostring(name), nearest.text(tostring(name), names)))
    end
    if name ~= 'params' then into[name] = v end
  end
  return into
end

-- optim.SGD({{params = ..., lr = ...}, ...}, {lr =, momentum =, weight_decay =, nesterov =}); params alone is one group.
-- Groups lie in opt.groups; their lr may be set at any time. Frozen parameters are left alone.
function optim.SGD(groups, options)
  if type(groups) ~= 'table' then raise('SGD: takes a table of parameters or of groups {params = ..., lr = ...}') end
  if F.is_tensor(groups[1]) then groups = {{params = groups}} end
  local self = setmetatable({groups = {}}, SGD)
  for i, given in ipairs(groups) do
    if type(given.params) ~= 'table' then raise(('SGD: group %d has no params'):format(i)) end
    local group = merge('SGD', merge('SGD', merge('SGD', {}, defaults), options or {}), given)
    group.initial_lr = group.lr
    group.params = given.params
    group.arena = arena_of(given.params)
    if group.arena then
      if group.momentum ~= 0 then group.arena.momentum = tensor.zeros_like(group.arena.p) end
      group.arena.lr = tensor.zeros({}, {dtype = 'f64', device = group.arena.p.device})
    end
    self.groups[i] = group
  end
  return self
end

-- All gradients become 0. A gradient that was taken away (p.grad = nil) is put back to its place.
function SGD:zero_grad()
  for _, group in ipairs(self.groups) do
    if group.arena then group.arena.grad:fill_(0) end
  end
end

-- g = grad + weight_decay p; buffer = momentum buffer + g; p -= lr buffer
function SGD:step()
  autograd.no_grad(function()
    for _, group in ipairs(self.groups) do
      local a = group.arena
      if a then
        a.lr:fill_(group.lr)
        a.p:sgd_(a.grad, a.momentum, a.lr, {momentum = group.momentum, weight_decay = group.weight_decay, nesterov = group.nesterov})
      end
    end
  end)
end

-- -- State, in PyTorch's form ---------------------------------------------------------------------------------------

-- A view of an arena as parameter p lies in it.
local function window(arena, p, offset)
  local n, sizes, strides = p:dim(), F.new('int64_t[8]', p:size()), F.new('int64_t[8]', p:stride())
  local out = F.tensor_out()
  check(C.dlv3_tensor_window(out, arena.p, n, sizes, strides, offset))
  return F.take(out)
end

-- {state = {[index] = {momentum_buffer}}, param_groups = {...}}; indices count parameters over all groups from 0.
function SGD:state_dict()
  local state, param_groups, index = dict.new(), {}, 0
  for g, group in ipairs(self.groups) do
    local indices, slice = {}, 1
    for i, p in ipairs(group.params) do
      indices[i] = index
      local s = group.arena and group.arena.slices[slice]
      if s and s[1] == p then
        slice = slice + 1
        if group.arena.momentum then
          local entry = dict.new()
          entry.momentum_buffer = window(group.arena.momentum, p, s[2])
          state[index] = entry
        end
      end
      index = index + 1
    end
    param_groups[g] = dict.from{{'lr', group.lr}, {'momentum', group.momentum}, {'dampening', 0}, {'weight_decay', group.weight_decay}, {'nesterov', group.nesterov},
                                {'maximize', false}, {'foreach', dict.none}, {'differentiable', false}, {'initial_lr', group.initial_lr}, {'params', indices}}
  end
  return dict.from{{'state', state}, {'param_groups', param_groups}}
end

function SGD:load_state_dict(sd)
  if type(sd) ~= 'table' or type(sd.param_groups) ~= 'table' or type(sd.state) ~= 'table' then raise('SGD: this is no state of an optimiser (state, param_groups)') end
  if #sd.param_groups ~= #self.groups then raise(('SGD: the state has %d parameter groups, the optimiser %d'):format(#sd.param_groups, #self.groups)) end
  local index = 0
  for g, group in ipairs(self.groups) do
    local saved, slice = sd.param_groups[g], 1
    if #saved.params ~= #group.params then raise(('SGD: group %d of the state has %d parameters, the optimiser %d'):format(g, #saved.params, #group.params)) end
    for _, name in ipairs {'lr', 'momentum', 'weight_decay', 'nesterov', 'initial_lr'} do
      if saved[name] ~= nil then group[name] = saved[name] end
    end
    for _, p in ipairs(group.params) do
      local s = group.arena and group.arena.slices[slice]
      if s and s[1] == p then
        slice = slice + 1
        local entry = sd.state[index]
        if entry and F.is_tensor(entry.momentum_buffer) and group.arena.momentum then
          local buffer = entry.momentum_buffer:to(p.device, p.dtype):clone()
          if table.concat(buffer:size(), ' ') ~= table.concat(p:size(), ' ') then raise(('SGD: the momentum of parameter %d has other sizes than the parameter'):format(index)) end
          check(C.dlv3_tensor_rebase(buffer.p, group.arena.momentum.p, s[2]))
        end
      end
      index = index + 1
    end
  end
end

setmetatable(optim, {__index = function(_, name)
  local names = {}
  for k in pairs(optim) do names[#names + 1] = k end
  raise(("optim has no '%s'%s"):format(tostring(name), nearest.text(tostring(name), names)))
end})

return optim
