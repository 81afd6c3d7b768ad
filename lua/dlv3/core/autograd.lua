-- autograd.lua - backward, no_grad, scope, and ops written in Lua.
--
-- The tape is C's (runtime/core/tape.c, backward.c). A Lua function on it is a number there; its
-- closure is kept here until the node is freed. C never calls Lua: backward returns the gradients
-- and is resumed.

local F = require 'dlv3.core.ffi'
local module_path = require 'dlv3.core.module_path'
local tensor = require 'dlv3.core.tensor'
local C, check, raise, is_tensor = F.C, F.check, F.raise, F.is_tensor
local T = tensor.methods

local M = {}

-- Runs after(...) whether fn fails or not; returns fn's results or raises its error as it was.
local function guarded(fn, after, ...)
  local depth = module_path.depth()
  local function done(ok, ...)
    if not ok then module_path.reset(depth) end
    after(ok, ...)
    if not ok then error((...), 0) end
    return ...
  end
  return done(pcall(fn, ...))
end

local function callable(fn)
  local mt = type(fn) == 'table' and getmetatable(fn)
  return type(fn) == 'function' or mt and mt.__call ~= nil
end

-- fn(...) with a tape (1) or without (0).
local function with_grad(enabled, fn, ...)
  local before = C.dlv3_grad_enabled()
  C.dlv3_set_grad_enabled(enabled)
  return guarded(fn, function() C.dlv3_set_grad_enabled(before) end, ...)
end

M.guarded, M.with_grad = guarded, with_grad -- for recompute.lua

-- fn(...) without a tape; returns its results. fn may be a module: dlv3.no_grad(model, x).
function M.no_grad(fn, ...)
  if not callable(fn) then raise('no_grad: takes a function, as in dlv3.no_grad(function() ... end)') end
  return with_grad(0, fn, ...)
end

local function keep(value, seen)
  if is_tensor(value) then C.dlv3_scope_keep(value.p)
  elseif type(value) == 'table' and not seen[value] then
    seen[value] = true
    for _, v in pairs(value) do keep(v, seen) end
  end
end

-- fn(...), after which every storage made inside is freed, also on error, but for tensors returned
-- (also in tables). What belongs to something older stays with it: a parameter's gradient, running
-- statistics, optimiser state.
function M.scope(fn, ...)
  if not callable(fn) then raise('scope: takes a function, as in dlv3.scope(function() ... end)') end
  local depth = C.dlv3_scope_push()
  return guarded(fn, function(ok, ...)
    if ok then
      local seen = {}
      for i = 1, select('#', ...) do keep((select(i, ...)), seen) end
    end
    C.dlv3_scope_pop(depth)
  end, ...)
end

-- -- Ops written in Lua ---------------------------------------------------------------------------

local closures, next_id = {}, 0
local freed = F.new('int64_t[64]')

-- Lets go of the closures of Lua functions whose nodes are gone.
local function forget_freed()
  while true do
    local n = C.dlv3_custom_freed(freed, 64)
    for i = 0, n - 1 do closures[tonumber(freed[i])] = nil end
    if n < 64 then return end
  end
end

M.forget_freed = forget_freed

local function pointers(list, n)
  local buf = F.new('dlv3_tensor *[?]', math.max(n, 1))
  for i = 1, n do buf[i - 1] = list[i] and F.ptr(list[i]) or nil end
  return buf
end

-- dlv3.Function{forward = function(ctx, x, ...) return y end, backward = function(ctx, grad_y)
-- return grad_x, ... end} A callable op: forward runs without a tape, backward returns a gradient
-- (or nil) for each argument. ctx is a table of this call's own.
function M.Function(definition)
  if type(definition) ~= 'table' or type(definition.forward) ~= 'function'
      or type(definition.backward) ~= 'function' then
    raise('Function: needs {forward = function(ctx, ...), backward = function(ctx, ...)}')
  end
  return function(...)
    local n, args, ctx = select('#', ...), {...}, {}
    local results = M.no_grad(function() return {definition.forward(ctx, unpack(args, 1, n))} end)
    local tracked = false
    for i = 1, n do tracked = tracked or is_tensor(args[i]) and C.dlv3_requires_grad(args[i].p) ~= 0 end
    if tracked and C.dlv3_grad_enabled() == 1 then
      forget_freed()
      next_id = next_id + 1
      closures[next_id] = function(...) return {definition.backward(ctx, ...)} end
      local inputs = {}
      for i = 1, n do inputs[i] = is_tensor(args[i]) and args[i] or nil end
      for i, y in ipairs(results) do
        if not is_tensor(y) then
          raise(('Function: forward must return tensors, result %d is a %s'):format(i, type(y)))
        end
      end
      local status = C.dlv3_custom_node(next_id, pointers(inputs, n), n, pointers(results, #results), #results)
      if status ~= C.DLV3_OK then closures[next_id] = nil end
      check(status)
    end
    return unpack(results)
  end
end

local function run_backward(run)
  local id, grads, n = F.new('int64_t[1]'), F.new('dlv3_tensor *[?]', tonumber(C.DLV3_MAX_OUTPUTS)), F.new('int32_t[1]')
  local inputs_max = tonumber(C.DLV3_MAX_INPUTS)
  while true do
    local status = C.dlv3_backward_next(run[0], id, grads, n)
    if status ~= C.DLV3_PENDING then return check(status) end
    local list = {}
    for i = 1, n[0] do list[i] = grads[i - 1] ~= nil and F.wrap(grads[i - 1]) or nil end
    local count = n[0]
    local results = M.no_grad(function() return closures[tonumber(id[0])](unpack(list, 1, count)) end)
    local m = 0
    for i in pairs(results) do m = math.max(m, i) end
    m = math.max(m, C.dlv3_backward_inputs(run[0]))
    check(C.dlv3_backward_give(run[0], pointers(results, math.min(m, inputs_max)), m))
  end
end

-- Adds the gradients of t (one element, or with its gradient given) to .grad of every leaf that
-- requires one.
function T.backward(t, grad)
  if grad ~= nil and not is_tensor(grad) then
    F.raise_unexpected('backward', 'the gradient of t, a tensor, where t has several elements', grad)
  end
  local run = F.new('dlv3_backward_run *[1]')
  check(C.dlv3_backward_begin(run, t.p, grad and F.ptr(grad) or nil))
  guarded(run_backward, function()
    C.dlv3_backward_end(run[0])
    forget_freed()
  end, run)
end

return M
