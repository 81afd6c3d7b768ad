-- test_ops.lua - every op of runtime/ops.def against what harness.lua asks of it.

return function(t)
  local harness = dofile(t.directory .. '/harness.lua')
  harness.run(t, {'conv', 'pool', 'norm', 'resample', 'loss', 'pointwise', 'reduce', 'shape', 'optim'})
end
