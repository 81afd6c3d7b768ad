-- Samples of the optimiser's ops; see tests/harness.lua for the fields.

local lr = {1, dtype = 'f64', low = 0.05, high = 0.2}
return {
  {op = 'sgd_', inputs = {{37}, {37}, false, lr}, attrs = {weight_decay = 0.1}, dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{37}, {37}, {37}, lr}, attrs = {momentum = 0.9, weight_decay = 0.1}, dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{40000}, {40000}, {40000}, lr}, attrs = {momentum = 0.9, nesterov = true}, dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{0}, {0}, {0}, lr}, attrs = {momentum = 0.9}, dtypes = {'f32'}},
  {op = 'sgd_', inputs = {{3}, {4}, false, lr}, error = 'sgd_: grad must be %[3%]'},
  {op = 'sgd_', inputs = {{3}, {3}, false, lr}, attrs = {momentum = 0.9}, error = 'sgd_: momentum 0.9 needs momentum_buffer'},
}
