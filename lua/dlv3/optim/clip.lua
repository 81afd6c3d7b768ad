-- clip.lua - optim.clip_grad_norm_: gradients scaled to a largest norm.

local F = require 'dlv3.core.ffi'
local arenas = require 'dlv3.optim.arena'
local autograd = require 'dlv3.core.autograd'
local expect = require 'dlv3.core.expect'
local tensor = require 'dlv3.core.tensor'

-- The gradients that a backward pass reached.
local function gradients_of(params)
  local grads = {}
  for _, p in ipairs(params) do
    local grad = p.grad
    if grad and not arenas.is_untouched(grad) then grads[#grads + 1] = grad end
  end
  return grads
end

-- clip_grad_norm_(params, max_norm): between backward and step; where the 2-norm of all the
-- parameters' gradients together is above max_norm, they are scaled to have it. Returns the norm
-- before, a tensor of one element; nothing waits for it.
-- norm_type: 2 or nil. What no backward pass reached stays so.
return function(params, max_norm, norm_type)
  if type(params) ~= 'table' or not F.is_tensor(params[1]) then
    F.raise('clip_grad_norm_: expected a table of parameters, as model:parameters() returns, got '
            .. expect.shown(params))
  end
  expect.argument('clip_grad_norm_', 'max_norm', max_norm, expect.number(0))
  expect.argument('clip_grad_norm_', 'norm_type', norm_type, expect.optional(expect.one_of{2}))
  return autograd.no_grad(function()
    local grads, total = gradients_of(params), nil
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
