-- optim - SGD over flat arenas, learning-rate schedules, and the loss scale of f16 (LossScaler).
--
-- The parameters of a group lie one after the other in one tensor, so do their gradients and momenta: clearing the
-- gradients is one fill, a step one pass. The parameters are moved there when the optimiser is made; they stay what
-- they were to the model, which shares the memory. As in PyTorch, a parameter that no backward pass reached since
-- zero_grad is left alone by step: no weight decay, no momentum.

local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'
local autograd = require 'dlv3.core.autograd'
local compile = require 'dlv3.core.compile'
local dict = require 'dlv3.core.dict'
local options_table = require 'dlv3.core.options_table'
local suggest = require 'dlv3.core.suggest'
local schedule = require 'dlv3.optim.schedule'
local LossScaler = require 'dlv3.optim.scaler'
local C, check, raise, is_tensor = F.C, F.check, F.raise, F.is_tensor

local optim = {poly = schedule.poly, multistep = schedule.multistep, cosine = schedule.cosine, constant = schedule.constant, LossScaler = LossScaler}

local SGD = {}
SGD.__index = SGD
function SGD.__newindex(_, name) raise(("SGD: '%s' can not be set here: rates and the like are the groups', as in opt.groups[1].lr = 0.1"):format(tostring(name))) end

-- -- Arenas -----------------------------------------------------------------------------------------------------

local align = 16 -- elements: every parameter starts on a cache line

-- How often a slice's gradient was changed by itself, not through its arena.
local function own_changes(slice) return tonumber(C.dlv3_tensor_version(slice.grad.p) - C.dlv3_tensor_version(slice.all.p)) end

local function key_of(p) return tonumber(F.cast('intptr_t', p)) end

local slices_of = setmetatable({}, {__mode = 'v'}) -- by the address of their gradients
local owners = setmetatable({}, {__mode = 'v'}) -- slices too, the last made, by the address of their parameters

-- Whether no backward pass reached a gradient since zero_grad: it is there, and zeros.
local function untouched(grad)
  local slice = slices_of[key_of(grad.p)]
  return slice ~= nil and own_changes(slice) == slice.seen
end

-- Flat storage for the parameters that learn: {p, grad, lr, slices = {{p, grad, all, offset, length, seen}, ...}}, all the
-- gradients of the arena; nil if none does.
local function arena_of(params)
  local first, total, slices = nil, 0, {}
  for _, p in ipairs(params) do
    if p.requires_grad then
      first = first or p
      if p.dtype ~= first.dtype or p.device ~= first.device then raise('SGD: the parameters of a group must be of one dtype and on one device') end
      local length = math.ceil(p:numel() / align) * align
      slices[#slices + 1] = {p = p, offset = total, length = length}
      total = total + length
    end
  end
  if not first then return nil end
  local options = {dtype = first.dtype, device = first.device}
  local arena = {p = tensor.zeros({total}, options), grad = tensor.zeros({total}, options), lr = tensor.zeros({}, {dtype = 'f64', device = first.device}), slices = slices}
  for _, slice in ipairs(slices) do
    local p = slice.p
    slice.grad = tensor.zeros(p:size(), options)
    check(C.dlv3_tensor_rebase(p.p, arena.p.p, slice.offset))
    check(C.dlv3_tensor_rebase(slice.grad.p, arena.grad.p, slice.offset))
    slice.address = C.dlv3_tensor_address(p.p)
    slice.all = arena.grad
    slice.seen = own_changes(slice)
    slices_of[key_of(slice.grad.p)], owners[key_of(p.p)] = slice, slice
    p.grad = slice.grad
  end
  return arena
end

local function add_momentum(group)
  local a = group.arena
  if a and group.momentum ~= 0 and not a.momentum then a.momentum = tensor.zeros_like(a.p) end
end

-- -- Making one -------------------------------------------------------------------------------------------------

local defaults = {lr = 1e-3, momentum = 0, weight_decay = 0, nesterov = false}

local function checked(o)
  options_table.number('SGD', 'lr', o.lr, 0, math.huge)
  options_table.number('SGD', 'momentum', o.momentum, 0, math.huge)
  options_table.number('SGD', 'weight_decay', o.weight_decay, 0, math.huge)
  if o.nesterov and o.momentum == 0 then raise('SGD: nesterov needs a momentum') end
  return o
end

local function check_params(i, params, seen)
  if type(params) == 'function' then raise(('SGD: params of group %d must be a table, as model:parameters() returns; a function came'):format(i)) end
  if type(params) ~= 'table' then raise(('SGD: group %d needs params, a table of parameters; %s came'):format(i, params == nil and 'nothing' or 'a ' .. type(params))) end
  for k, p in ipairs(params) do
    if not is_tensor(p) then raise(('SGD: parameter %d of group %d is a %s, not a tensor'):format(k, i, type(p))) end
    if not p.is_leaf then raise(('SGD: parameter %d of group %d is the result of an operation, not a parameter'):format(k, i)) end
    local id = key_of(p.p)
    if seen[id] then raise(('SGD: parameter %d of group %d is also %s'):format(k, i, seen[id])) end
    seen[id] = ('parameter %d of group %d'):format(k, i)
  end
end

-- optim.SGD({{params = ..., lr = ...}, ...}, {lr = 1e-3, momentum = 0, weight_decay = 0, nesterov = false}).
-- params alone is one group. Groups lie in opt.groups; their lr may be set at any time. Frozen parameters are left
-- alone; once they learn, the optimiser is made anew (the state of the old one can be loaded). Move the model to its
-- device and dtype first.
function optim.SGD(groups, options)
  if type(groups) ~= 'table' then raise('SGD: takes a table of parameters or of groups {params = ..., lr = ...}; a ' .. type(groups) .. ' came') end
  if rawget(groups, '_kinds') then raise('SGD: takes parameters, a module came: optim.SGD(model:parameters(), {lr = ...})') end
  if is_tensor(groups[1]) then groups = {{params = groups}} elseif groups.params then groups = {groups} end
  local base, seen, self = checked(options_table('SGD', defaults, options)), {}, setmetatable({groups = {}}, SGD)
  local with_params = {params = options_table.optional}
  for name, v in pairs(base) do with_params[name] = v end
  for i, g in ipairs(groups) do
    local group = checked(options_table('SGD', with_params, g))
    check_params(i, group.params, seen)
    self.groups[i] = group
  end
  if next(seen) == nil then raise('SGD: there are no parameters in it') end
  for _, group in ipairs(self.groups) do
    group.initial_lr, group.frozen = group.lr, {}
    for _, p in ipairs(group.params) do
      if not p.requires_grad then group.frozen[#group.frozen + 1] = p end
    end
    group.arena = arena_of(group.params)
    add_momentum(group)
  end
  return self
end

-- -- Steps ------------------------------------------------------------------------------------------------------

-- All gradients become 0, and are in their place again where somebody took them away.
function SGD:zero_grad()
  for _, group in ipairs(self.groups) do
    local a = group.arena
    if a then
      a.grad:fill_(0)
      for _, slice in ipairs(a.slices) do
        check(C.dlv3_tensor_set_grad(slice.p.p, slice.grad.p))
        slice.seen = own_changes(slice)
      end
    end
  end
end

-- Whether a slice has a gradient since zero_grad. One that somebody put in place of ours is copied to where it belongs.
local function has_gradient(slice)
  if C.dlv3_tensor_address(slice.p.p) ~= slice.address then
    if owners[key_of(slice.p.p)] ~= slice then raise('SGD: a parameter belongs to an optimiser that was made after this one; one has it, with groups for different rates') end
    raise('SGD: a parameter was moved or released after the optimiser was made: move the model first (model:to), then make the optimiser')
  end
  local grad = C.dlv3_tensor_grad(slice.p.p)
  if grad == nil then return false end
  local ours = grad == slice.grad.p
  local handle = F.wrap(grad)
  if not ours then
    slice.grad:copy_(handle)
    check(C.dlv3_tensor_set_grad(slice.p.p, slice.grad.p))
  end
  return own_changes(slice) ~= slice.seen
end

-- The pieces of the arena to update: {offset, length}, neighbours joined.
local function touched(arena)
  local runs, last = {}, nil
  for _, slice in ipairs(arena.slices) do
    if has_gradient(slice) then
      if last and last[1] + last[2] == slice.offset then last[2] = last[2] + slice.length
      else
        last = {slice.offset, slice.length}
        runs[#runs + 1] = last
      end
    end
  end
  return runs
end

-- What was frozen when the arena was made has no place in it.
local function check_frozen(group)
  for _, p in ipairs(group.frozen) do
    if p.requires_grad then
      raise('SGD: a parameter that was frozen when the optimiser was made learns now: make the optimiser anew; new:load_state_dict(old:state_dict()) keeps its momenta')
    end
  end
end

local function part(t, run) return t and (run[2] == t:numel() and t or t:narrow(1, run[1] + 1, run[2])) end

-- The gradients that the next step uses, as pieces of the arenas.
function SGD:gradients()
  local list = {}
  for _, group in ipairs(self.groups) do
    for _, run in ipairs(group.arena and touched(group.arena) or {}) do list[#list + 1] = part(group.arena.grad, run) end
  end
  return list
end

-- g = grad + weight_decay p; buffer = momentum buffer + g; p -= lr buffer. scaled: a LossScaler's {grad_scale =, found_inf =}:
-- gradients are divided by the one, and nothing changes where the other is not 0.
function SGD:step(scaled)
  if scaled ~= nil and type(scaled) ~= 'table' then raise('SGD: step takes no closure: backward runs before it') end
  scaled = scaled or {}
  autograd.no_grad(function()
    for _, group in ipairs(self.groups) do
      local a = group.arena
      check_frozen(group)
      if a then
        add_momentum(group)
        local momentum, weight_decay, nesterov = group.momentum, group.weight_decay, group.nesterov
        compile.refresh(function() -- rates change from step to step, also of a recorded one; the others are part of the op
          a.lr:fill_(group.lr)
          return momentum == group.momentum and weight_decay == group.weight_decay and nesterov == group.nesterov
        end)
        for _, run in ipairs(touched(a)) do
          part(a.p, run):sgd_(part(a.grad, run), part(a.momentum, run), a.lr,
                              {momentum = group.momentum, weight_decay = group.weight_decay, nesterov = group.nesterov,
                               grad_scale = scaled.grad_scale, found_inf = scaled.found_inf})
        end
      end
    end
  end)
end

-- -- Clipping -------------------------------------------------------------------------------------------------------

-- Between backward and step: where the 2-norm of all the parameters' gradients together is above max_norm, they are scaled
-- to have it. Returns the norm that it was, a tensor of one element; nothing waits for it. What no backward pass reached
-- stays so.
function optim.clip_grad_norm_(params, max_norm, norm_type)
  if type(params) ~= 'table' or not is_tensor(params[1]) then raise('clip_grad_norm_: takes a table of parameters, as model:parameters() returns') end
  options_table.number('clip_grad_norm_', 'max_norm', max_norm, 0, math.huge)
  if norm_type ~= nil and norm_type ~= 2 then raise('clip_grad_norm_: only the 2-norm is there, ' .. tostring(norm_type) .. ' came') end
  return autograd.no_grad(function()
    local grads, total = {}, nil
    for _, p in ipairs(params) do
      if p.grad and not untouched(p.grad) then grads[#grads + 1] = p.grad end
    end
    for _, grad in ipairs(grads) do
      local squares = grad:square():sum()
      total = total and total + squares or squares
    end
    if not total then return tensor.zeros{} end
    total = total:sqrt()
    local scale = (max_norm / (total + 1e-6)):clamp{max = 1}
    for _, grad in ipairs(grads) do grad:mul_(scale) end
    return total
  end)
end

-- -- State, in PyTorch's form ---------------------------------------------------------------------------------------

-- A view of an arena as parameter p lies in it.
local function window(arena, slice)
  local p = slice.p
  local n, sizes, strides = p:dim(), F.new('int64_t[8]', p:size()), F.new('int64_t[8]', p:stride())
  local out = F.tensor_out()
  check(C.dlv3_tensor_window(out, arena.p, n, sizes, strides, slice.offset))
  return F.take(out)
end

-- For every parameter: its group, its place in the group, its index over all groups from 0, and its slice (nil: frozen).
local function each(self)
  local list, index = {}, 0
  for _, group in ipairs(self.groups) do
    local by_id = {}
    for _, slice in ipairs(group.arena and group.arena.slices or {}) do by_id[tonumber(F.cast('intptr_t', slice.p.p))] = slice end
    for i, p in ipairs(group.params) do
      list[#list + 1] = {group = group, i = i, index = index, slice = by_id[tonumber(F.cast('intptr_t', p.p))]}
      index = index + 1
    end
  end
  return list
end

-- {state = {[index] = {momentum_buffer}}, param_groups = {...}}; indices count parameters over all groups from 0.
function SGD:state_dict()
  local state, param_groups, indices = dict.new(), {}, {}
  for _, e in ipairs(each(self)) do
    indices[e.group] = indices[e.group] or {}
    indices[e.group][e.i] = e.index
    if e.slice and e.group.arena.momentum then state[e.index] = dict.from{{'momentum_buffer', window(e.group.arena.momentum, e.slice)}} end
  end
  for g, group in ipairs(self.groups) do
    param_groups[g] = dict.from{{'lr', group.lr}, {'momentum', group.momentum}, {'dampening', 0}, {'weight_decay', group.weight_decay}, {'nesterov', group.nesterov},
                                {'maximize', false}, {'foreach', dict.none}, {'differentiable', false}, {'initial_lr', group.initial_lr}, {'params', indices[group] or {}}}
  end
  return dict.from{{'state', state}, {'param_groups', param_groups}}
end

local function sizes_text(t) return '[' .. table.concat(t:size(), ', ') .. ']' end

local function check_state(self, sd)
  if type(sd) ~= 'table' or type(sd.param_groups) ~= 'table' or type(sd.state) ~= 'table' then raise('SGD: this is no state of an optimiser (state, param_groups)') end
  if #sd.param_groups ~= #self.groups then raise(('SGD: the state has %d parameter groups, the optimiser %d'):format(#sd.param_groups, #self.groups)) end
  for g, group in ipairs(self.groups) do
    local saved = sd.param_groups[g]
    if type(saved) ~= 'table' or type(saved.params) ~= 'table' then raise(('SGD: group %d of the state has no params'):format(g)) end
    if #saved.params ~= #group.params then raise(('SGD: group %d of the state has %d parameters, the optimiser %d'):format(g, #saved.params, #group.params)) end
    if (saved.dampening or 0) ~= 0 or saved.maximize == true then raise(('SGD: group %d of the state uses dampening or maximize, which are not offered'):format(g)) end
  end
end

-- The buffer that a state has for a parameter, or nil.
local function saved_buffer(sd, group_of, e)
  local entry = sd.state[sd.param_groups[group_of[e.group]].params[e.i]]
  local buffer = type(entry) == 'table' and entry.momentum_buffer
  if not is_tensor(buffer) then return nil end
  if e.slice and sizes_text(buffer) ~= sizes_text(e.slice.p) then
    raise(('SGD: the momentum of parameter %d is %s in the state, the parameter is %s'):format(e.index, sizes_text(buffer), sizes_text(e.slice.p)))
  end
  return buffer
end

-- Takes over a state as from state_dict or from PyTorch's SGD, also the groups' lr, momentum, weight_decay and nesterov.
function SGD:load_state_dict(sd)
  check_state(self, sd)
  local group_of, entries = {}, each(self)
  for g, group in ipairs(self.groups) do group_of[group] = g end
  for _, e in ipairs(entries) do e.buffer = saved_buffer(sd, group_of, e) end
  for g, group in ipairs(self.groups) do
    for _, name in ipairs {'lr', 'momentum', 'weight_decay', 'nesterov', 'initial_lr'} do
      local v = sd.param_groups[g][name]
      if type(v) == type(group[name]) then group[name] = v end
    end
    add_momentum(group)
    if group.arena and group.arena.momentum then group.arena.momentum:fill_(0) end
  end
  autograd.no_grad(function()
    for _, e in ipairs(entries) do
      if e.buffer and e.slice and e.group.arena.momentum then window(e.group.arena.momentum, e.slice):copy_(e.buffer:to(e.slice.p.device)) end
    end
  end)
end

setmetatable(optim, {__index = function(_, name)
  local names = {}
  for k in pairs(optim) do names[#names + 1] = k end
  table.sort(names)
  raise(("optim has no '%s'%s (has: %s)"):format(tostring(name), suggest.text(tostring(name), names), table.concat(names, ', ')))
end})

return optim
