-- recompute.lua - dlv3.recompute: what a function computes inside is recomputed in backward instead
-- of saved.
--
-- Forward runs without a tape. Backward runs the function once more, with one, from the arguments
-- and the random state of the first time, and at once goes back through it. So the gradients have
-- the same bits (but where x has two more uses outside of the function: its three gradients are
-- then added in another order), running statistics move once, and the most that is held is the ends
-- of all such functions and the inside of one. It costs that second forward.

local F = require 'dlv3.core.ffi'
local autograd = require 'dlv3.core.autograd'
local call = require 'dlv3.core.call'
local C = F.C

local M = {again = false} -- again: a function runs the second time; batch norm leaves its running statistics alone

-- The function once more on x, with the random numbers of the first time; the generator stays where
-- it is now.
local function second(ctx, x)
  local rng, now, before = ctx.rng, ctx.rng:clone(), M.again
  rng:copy_(ctx.state)
  M.again = true
  return autograd.guarded(autograd.with_grad, function()
    M.again = before
    rng:copy_(now)
  end, 1, ctx.fn, x)
end

local node = autograd.Function{
  forward = function(ctx, x, fn)
    ctx.x, ctx.fn, ctx.rng = x, fn, call.default_rng(C.dlv3_tensor_device(x.p))
    ctx.state = ctx.rng:clone()
    local y, more = autograd.scope(fn, x)
    if more ~= nil then
      F.raise('recompute: the function must return one tensor, it returned more; what is small can be made outside '
              .. 'of it')
    end
    if not F.is_tensor(y) then
      F.raise('recompute: the function must return one tensor, it returned '
              .. (y == nil and 'nothing' or 'a ' .. type(y)))
    end
    return y
  end,
  backward = function(ctx, grad)
    return autograd.scope(function()
      local x = ctx.x:detach():requires_grad_()
      second(ctx, x):backward(grad)
      return x.grad
    end)
  end,
}

-- fn(x) of a tensor x, one tensor. Parameters that fn uses get their gradients; other tensors that
-- need some must come as x.
function M.recompute(fn, x, ...)
  if not F.is_tensor(x) then
    F.raise_unexpected('recompute', 'a function and a tensor, as in dlv3.recompute(block, x)', x)
  end
  if select('#', ...) > 0 then
    F.raise('recompute: expected a function of one tensor, got more; what needs no gradient can be an upvalue of the '
            .. 'function')
  end
  if C.dlv3_grad_enabled() == 0 or C.dlv3_requires_grad(x.p) == 0 then return fn(x) end
  return node(x, fn)
end

return M
