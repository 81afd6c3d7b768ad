-- sgd.lua - optim.SGD: stochastic gradient descent with momentum, weight decay and Nesterov's
-- variant, over flat arenas.
--
-- As in PyTorch, a parameter that no backward pass reached since zero_grad is left alone by step:
-- no weight decay, no momentum.

local F = require 'dlv3.core.ffi'
local arenas = require 'dlv3.optim.arena'
local autograd = require 'dlv3.core.autograd'
local compile = require 'dlv3.core.compile'
local dict = require 'dlv3.core.dict'
local expect = require 'dlv3.core.expect'
local raise, is_tensor, key_of, run_of, slice_of = F.raise, F.is_tensor, arenas.key_of, arenas.run_of, arenas.slice_of

local SGD = {}
SGD.__index = SGD
function SGD.__newindex(_, name)
  raise(("SGD: '%s' can not be set on the optimiser; options belong to its groups: opt.groups[1].lr = 0.1"):format(
        tostring(name)))
end

-- -- Construction ---------------------------------------------------------------------------------

local spec = {
  lr = {1e-3, expect.number(0)}, momentum = {0, expect.number(0)}, weight_decay = {0, expect.number(0)},
  nesterov = false,
}

-- The same for a group, with the optimiser's options as defaults.
local function group_spec(base)
  local own = {params = expect.any}
  for name, entry in pairs(spec) do own[name] = type(entry) == 'table' and {base[name], entry[2]} or base[name] end
  return own
end

local function options_of(own_spec, options)
  local o = expect.options('SGD', own_spec, options)
  if o.nesterov and o.momentum == 0 then raise('SGD: nesterov: expected a momentum above 0 with it, got momentum 0') end
  return o
end

local function check_params(i, params, seen)
  if type(params) ~= 'table' or getmetatable(params) then
    raise(('SGD: group %d: expected params, a table as model:parameters() returns, got %s'):format(i,
        expect.shown(params)))
  end
  for k, p in ipairs(params) do
    local place = ('parameter %d of group %d'):format(k, i)
    expect.argument('SGD', place, p, expect.tensor)
    if not p.is_leaf then raise(('SGD: %s is the result of an operation, not a parameter'):format(place)) end
    local id = key_of(p.p)
    if seen[id] then raise(('SGD: %s is also %s'):format(place, seen[id])) end
    seen[id] = place
  end
end

-- What SGD takes as its first argument, as a list of groups.
local function groups_of(groups)
  if type(groups) ~= 'table' then
    raise('SGD: expected a table of parameters or of groups {params = ..., lr = ...}, got ' .. expect.shown(groups))
  end
  if rawget(groups, '_kinds') then
    raise('SGD: expected parameters, got a module: optim.SGD(model:parameters(), {lr = ...})')
  end
  if is_tensor(groups[1]) then return {{params = groups}} end
  return groups.params and {groups} or groups
end

local function frozen_of(params)
  local frozen = {}
  for _, p in ipairs(params) do
    if not p.requires_grad then frozen[#frozen + 1] = p end
  end
  return frozen
end

-- A momentum may be set after the optimiser was made.
local function add_momentum(group)
  if group.arena and group.momentum ~= 0 then group.arena:add_state 'momentum' end
end

-- optim.SGD({{params = ..., lr = ...}, ...}, {lr = 1e-3, momentum = 0, weight_decay = 0, nesterov =
-- false}) params: parameters of one dtype on one device, as model:parameters() returns; a table of
-- parameters alone is one group. The groups are in opt.groups; their options may be changed between
-- steps. Frozen parameters are left alone; after they are set free, make a new optimiser and load
-- the state of the old one. Move the model to its device and dtype first.
local function new(groups, options)
  groups = groups_of(groups)
  local base, seen = options_of(spec, options), {}
  local self = setmetatable({groups = {}}, SGD)
  local own_spec = group_spec(base)
  for i, given in ipairs(groups) do
    local group = options_of(own_spec, given)
    check_params(i, group.params, seen)
    self.groups[i] = group
  end
  if next(seen) == nil then raise('SGD: expected at least one parameter, got none') end
  for _, group in ipairs(self.groups) do
    group.initial_lr, group.frozen = group.lr, frozen_of(group.params)
    group.arena = arenas.new(group.params)
    add_momentum(group)
  end
  return self
end

-- -- Steps ----------------------------------------------------------------------------------------

-- All gradients become 0, and are in their place again where the model's p.grad was changed.
function SGD:zero_grad()
  for _, group in ipairs(self.groups) do
    if group.arena then group.arena:zero_grad() end
  end
end

-- A parameter that was frozen when the arena was made has no place in it.
local function check_frozen(group)
  for _, p in ipairs(group.frozen) do
    if p.requires_grad then
      raise('SGD: a parameter that was frozen when the optimiser was made requires gradients now: make a new '
            .. 'optimiser; new:load_state_dict(old:state_dict()) keeps its momenta')
    end
  end
end

-- The gradients that the next step uses, a list of flat parts of the arenas.
function SGD:gradients()
  local list = {}
  for _, group in ipairs(self.groups) do
    for _, run in ipairs(group.arena and group.arena:touched_runs() or {}) do
      list[#list + 1] = run_of(group.arena.grad, run)
    end
  end
  return list
end

-- The rate of the next step, also of a recorded one; a recorded program with other constants no
-- longer holds.
local function refresh(group)
  local arena, momentum, weight_decay, nesterov = group.arena, group.momentum, group.weight_decay, group.nesterov
  compile.refresh(function()
    arena.lr:fill_(group.lr)
    return momentum == group.momentum and weight_decay == group.weight_decay and nesterov == group.nesterov
  end)
end

local function step_group(group, scaled)
  local arena = group.arena
  local attributes = {
    momentum = group.momentum, weight_decay = group.weight_decay, nesterov = group.nesterov,
    grad_scale = scaled.grad_scale, found_inf = scaled.found_inf,
  }
  for _, run in ipairs(arena:touched_runs()) do
    run_of(arena.p, run):sgd_(run_of(arena.grad, run), run_of(arena.momentum, run), arena.lr, attributes)
  end
end

-- g = grad + weight_decay p; buffer = momentum buffer + g; p -= lr buffer.
-- scaled: a LossScaler's {grad_scale =, found_inf =}: gradients are divided by grad_scale, and
-- nothing changes where found_inf is not 0.
function SGD:step(scaled)
  if scaled ~= nil and type(scaled) ~= 'table' then raise('SGD: step takes no closure: call backward before it') end
  autograd.no_grad(function()
    for _, group in ipairs(self.groups) do
      check_frozen(group)
      if group.arena then
        add_momentum(group)
        refresh(group)
        step_group(group, scaled or {})
      end
    end
  end)
end

-- -- State, in PyTorch's form ---------------------------------------------------------------------

-- Every parameter: {group =, i = its place in the group, index = that over all groups from 0, slice
-- = (nil: frozen)}.
local function entries_of(self)
  local list = {}
  for _, group in ipairs(self.groups) do
    local by_id = {}
    for _, slice in ipairs(group.arena and group.arena.slices or {}) do by_id[key_of(slice.p.p)] = slice end
    for i, p in ipairs(group.params) do
      list[#list + 1] = {group = group, i = i, index = #list, slice = by_id[key_of(p.p)]}
    end
  end
  return list
end

local function group_state(group, indices)
  return dict.from{
    {'lr', group.lr}, {'momentum', group.momentum}, {'dampening', 0}, {'weight_decay', group.weight_decay},
    {'nesterov', group.nesterov}, {'maximize', false}, {'foreach', dict.none}, {'differentiable', false},
    {'initial_lr', group.initial_lr}, {'params', indices},
  }
end

-- {state = {[index] = {momentum_buffer}}, param_groups = {...}}; indices count parameters over all
-- groups from 0.
function SGD:state_dict()
  local state, param_groups, indices = dict.new(), {}, {}
  for _, group in ipairs(self.groups) do indices[group] = {} end
  for _, e in ipairs(entries_of(self)) do
    indices[e.group][e.i] = e.index
    local momentum = e.slice and e.group.arena.momentum
    if momentum then state[e.index] = dict.from{{'momentum_buffer', slice_of(momentum, e.slice)}} end
  end
  for g, group in ipairs(self.groups) do param_groups[g] = group_state(group, indices[group]) end
  return dict.from{{'state', state}, {'param_groups', param_groups}}
end

local function sizes_text(t) return '[' .. table.concat(t:size(), ', ') .. ']' end

local function check_group_state(g, group, saved)
  if type(saved) ~= 'table' or type(saved.params) ~= 'table' then
    raise(('SGD: group %d of the state has no params'):format(g))
  end
  if #saved.params ~= #group.params then
    raise(('SGD: group %d of the state has %d parameters, the optimiser %d'):format(g, #saved.params, #group.params))
  end
  if (saved.dampening or 0) ~= 0 or saved.maximize == true then
    raise(('SGD: group %d of the state uses dampening or maximize, which are not offered'):format(g))
  end
end

local function check_state(self, sd)
  if type(sd) ~= 'table' or type(sd.param_groups) ~= 'table' or type(sd.state) ~= 'table' then
    raise('SGD: load_state_dict: expected the state of an optimiser (state, param_groups), got ' .. expect.shown(sd))
  end
  if #sd.param_groups ~= #self.groups then
    raise(('SGD: the state has %d parameter groups, the optimiser %d'):format(#sd.param_groups, #self.groups))
  end
  for g, group in ipairs(self.groups) do check_group_state(g, group, sd.param_groups[g]) end
end

-- The buffer that a state has for a parameter, or nil.
local function saved_buffer(sd, group_of, e)
  local entry = sd.state[sd.param_groups[group_of[e.group]].params[e.i]]
  local buffer = type(entry) == 'table' and entry.momentum_buffer
  if not is_tensor(buffer) then return nil end
  if e.slice and sizes_text(buffer) ~= sizes_text(e.slice.p) then
    raise(('SGD: the momentum of parameter %d is %s in the state, the parameter is %s'):format(
          e.index, sizes_text(buffer), sizes_text(e.slice.p)))
  end
  return buffer
end

-- Takes over a state as from state_dict or from PyTorch's SGD, also the groups' lr, momentum,
-- weight_decay and nesterov. Where it does not fit, an error, and nothing is changed.
function SGD:load_state_dict(sd)
  check_state(self, sd)
  local group_of, entries = {}, entries_of(self)
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
      local momentum = e.buffer and e.slice and e.group.arena.momentum
      if momentum then slice_of(momentum, e.slice):copy_(e.buffer:to(e.slice.p.device)) end
    end
  end)
end

return new
