-- arena.lua - flat storage for the parameters that one group of an optimiser trains.
--
-- The parameters lie one after the other in one tensor, so do their gradients and each state of the
-- optimiser: clearing the gradients is one fill, a step is one pass. The parameters are moved there
-- when the arena is made; to the model they stay what they were, since it shares the memory.
-- Whether a backward pass reached a parameter since zero_grad is read off version counters: the
-- gradient of a slice counts its own changes and those of the whole arena.

local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'
local C, check, raise = F.C, F.check, F.raise

local Arena = {}
Arena.__index = Arena

local M = {}

local alignment = 16 -- elements: every parameter starts on a cache line

local function key_of(p) return tonumber(F.cast('intptr_t', p)) end
M.key_of = key_of

local slices_by_gradient = setmetatable({}, {__mode = 'v'}) -- by the address of the gradient's tensor
-- the newest slice, by the address of the parameter's tensor
local slices_by_parameter = setmetatable({}, {__mode = 'v'})

-- How often a slice's gradient was changed by itself, not through its arena.
local function own_changes(slice)
  return tonumber(C.dlv3_tensor_version(slice.grad.p) - C.dlv3_tensor_version(slice.arena_grad.p))
end

-- Whether grad is a slice of an arena that no backward pass reached since zero_grad: it is present,
-- and zeros.
function M.is_untouched(grad)
  local slice = slices_by_gradient[key_of(grad.p)]
  return slice ~= nil and own_changes(slice) == slice.seen
end

-- The places of the parameters that require gradients, {p =, offset =, length =} in elements, and
-- the arena's length.
local function layout(params)
  local slices, total = {}, 0
  for _, p in ipairs(params) do
    if p.requires_grad then
      local first = slices[1] and slices[1].p or p
      if p.dtype ~= first.dtype or p.device ~= first.device then
        raise('SGD: expected parameters of one dtype and on one device in a group')
      end
      local length = math.ceil(p:numel() / alignment) * alignment
      slices[#slices + 1] = {p = p, offset = total, length = length}
      total = total + length
    end
  end
  return slices, total
end

-- Moves a parameter and its gradient into the arena.
local function place_slice(self, slice)
  local p = slice.p
  slice.grad = tensor.zeros(p:size(), {dtype = p.dtype, device = p.device})
  check(C.dlv3_tensor_rebase(p.p, self.p.p, slice.offset))
  check(C.dlv3_tensor_rebase(slice.grad.p, self.grad.p, slice.offset))
  slice.address = C.dlv3_tensor_address(p.p)
  slice.arena_grad = self.grad
  slice.seen = own_changes(slice)
  slices_by_gradient[key_of(slice.grad.p)], slices_by_parameter[key_of(p.p)] = slice, slice
  p.grad = slice.grad
end

-- An arena of the parameters that require gradients: {p, grad (flat tensors), lr (f64, 0-d, on the
-- same device), slices = {{p, grad, offset, length, ...}, ...}}; nil where none does. It lives as
-- long as its parameters.
function M.new(params)
  local slices, total = layout(params)
  if #slices == 0 then return nil end
  local first = slices[1].p
  local options = {dtype = first.dtype, device = first.device}
  local self = setmetatable({
    p = tensor.zeros({total}, options), grad = tensor.zeros({total}, options),
    lr = tensor.zeros({}, {dtype = 'f64', device = first.device}), slices = slices,
  }, Arena)
  for _, slice in ipairs(slices) do place_slice(self, slice) end
  C.dlv3_scope_inherit(self.lr.p, self.p.p)
  return self
end

-- A state of the optimiser for every element, zeros where it is new: self[name], which lives as
-- long as the parameters.
function Arena:add_state(name)
  if self[name] then return end
  self[name] = tensor.zeros_like(self.p)
  C.dlv3_scope_inherit(self[name].p, self.p.p)
end

-- All gradients become 0, and are in their place again where the model's p.grad was changed.
function Arena:zero_grad()
  self.grad:fill_(0)
  for _, slice in ipairs(self.slices) do
    check(C.dlv3_tensor_set_grad(slice.p.p, slice.grad.p))
    slice.seen = own_changes(slice)
  end
end

local function check_in_place(slice)
  if C.dlv3_tensor_address(slice.p.p) == slice.address then return end
  if slices_by_parameter[key_of(slice.p.p)] ~= slice then
    raise('SGD: a parameter belongs to an optimiser that was made after this one: '
          .. 'make one optimiser, with groups for different rates')
  end
  raise('SGD: a parameter was moved or released after the optimiser was made: move the model first (model:to), '
        .. 'then make the optimiser')
end

-- Whether a slice has a gradient since zero_grad. One that was put in place of ours is copied to
-- where it belongs.
local function has_gradient(slice)
  check_in_place(slice)
  local grad = C.dlv3_tensor_grad(slice.p.p)
  if grad == nil then return false end
  local is_ours = grad == slice.grad.p
  local handle = F.wrap(grad)
  if not is_ours then
    slice.grad:copy_(handle)
    check(C.dlv3_tensor_set_grad(slice.p.p, slice.grad.p))
  end
  return own_changes(slice) ~= slice.seen
end

-- The runs of elements whose parameters have gradients since zero_grad: {offset, length},
-- neighbours joined.
function Arena:touched_runs()
  local runs, last = {}, nil
  for _, slice in ipairs(self.slices) do
    if has_gradient(slice) then
      if last and last[1] + last[2] == slice.offset then
        last[2] = last[2] + slice.length
      else
        last = {slice.offset, slice.length}
        runs[#runs + 1] = last
      end
    end
  end
  return runs
end

-- The part of a flat tensor that a run covers; nil of nil.
function M.run_of(flat, run)
  if not flat or run[2] == flat:numel() then return flat end
  return flat:narrow(1, run[1] + 1, run[2])
end

-- A view of a flat tensor in the sizes and strides of a slice's parameter.
function M.slice_of(flat, slice)
  local p = slice.p
  local sizes, strides = F.new('int64_t[8]', p:size()), F.new('int64_t[8]', p:stride())
  local out = F.tensor_out()
  check(C.dlv3_tensor_window(out, flat.p, p:dim(), sizes, strides, slice.offset))
  return F.take(out)
end

return M
