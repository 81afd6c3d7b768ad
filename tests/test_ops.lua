-- test_ops.lua - every op of runtime/ops.def against what harness.lua asks of it.

local harness = dofile((arg[0]:match('^(.*)/[^/]*$') or '.') .. '/harness.lua')

return function(t)
  harness.run(t, {'conv', 'pool', 'norm', 'resample', 'loss', 'pointwise', 'reduce', 'shape', 'optim'})
end
