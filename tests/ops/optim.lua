-- Samples of the optimiser's ops; see tests/harness.lua for the fields.

local dlv3 = require 'dlv3'

local lr = {1, dtype = 'f64', low = 0.05, high = 0.2}
local scale, yes, no, tracker = {1, dtype = 'f32', value = 1024}, {1, dtype = 'f32', value = 1}, {1, dtype = 'f32',
    value = 0}, {1, dtype = 'i32', value = 3}
local function gradient(n, at, value)
  return function(dtype)
    local x = dlv3.randn{n}
    if at then x[at] = value end
    return x:to(dtype)
  end
end

return {
  {op = 'sgd_', inputs = {{37}, {37}, false, lr}, attrs = {weight_decay = 0.1}, dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{37}, {37}, {37}, lr}, attrs = {momentum = 0.9, weight_decay = 0.1}, dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{40000}, {40000}, {40000}, lr}, attrs = {momentum = 0.9, nesterov = true},
   dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{0}, {0}, {0}, lr}, attrs = {momentum = 0.9}, dtypes = {'f32'}},
  {op = 'sgd_', inputs = {{37}, {37}, {37}, lr, scale, no}, attrs = {momentum = 0.9, weight_decay = 0.1},
   dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{37}, {37}, false, lr, scale}, dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{37}, {37}, {37}, lr, scale, yes}, attrs = {momentum = 0.9}, dtypes = {'f32', 'f64'}},
  {op = 'sgd_', inputs = {{3}, {4}, false, lr}, error = 'sgd_: grad must be %[3%]'},
  {op = 'sgd_', inputs = {{3}, {3}, false, lr, {2}}, error = 'sgd_: grad_scale must have one element'},
  {op = 'sgd_', inputs = {{3}, {3}, false, lr}, attrs = {momentum = 0.9},
   error = 'sgd_: momentum 0.9 needs momentum_buffer'},

  {op = 'amp_non_finite_check_', inputs = {no, gradient(70000)}},
  {op = 'amp_non_finite_check_', inputs = {no, gradient(70000, 70000, math.huge)}},
  {op = 'amp_non_finite_check_', inputs = {no, gradient(37, 1, -math.huge)}},
  {op = 'amp_non_finite_check_', inputs = {no, gradient(37, 20, 0 / 0)}},
  {op = 'amp_non_finite_check_', inputs = {yes, {5, value = 6e4}}},
  {op = 'amp_non_finite_check_', inputs = {no, {0}}},
  {op = 'amp_non_finite_check_', inputs = {{1, dtype = 'f64'}, {3}},
   error = 'amp_non_finite_check_: found_inf must be f32, it is f64'},

  {op = 'amp_update_scale_', inputs = {scale, tracker, no}, attrs = {growth_interval = 5}},
  {op = 'amp_update_scale_', inputs = {scale, tracker, no}, attrs = {growth_interval = 4, growth_factor = 1.5}},
  {op = 'amp_update_scale_', inputs = {scale, tracker, yes}, attrs = {backoff_factor = 0.3}},
  {op = 'amp_update_scale_', inputs = {{1, dtype = 'f32', value = 2e38}, tracker, no}, attrs = {growth_interval = 4}},
  {op = 'amp_update_scale_', inputs = {scale, tracker, no}, attrs = {growth_interval = 0},
   error = 'amp_update_scale_: growth_interval must be 1 or more'},
}
