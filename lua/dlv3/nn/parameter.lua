-- parameter.lua - nn.Parameter: a tensor that an optimiser trains.

local expect = require 'dlv3.core.expect'

-- Parameter(t): t itself, which requires gradients from now on; assigned to a field of a module it
-- is one of its parameters.
return function(t)
  return expect.argument('Parameter', 't', t, expect.tensor):requires_grad_()
end
