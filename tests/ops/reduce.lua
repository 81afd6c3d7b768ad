-- Samples of the reductions; see tests/harness.lua for the fields.

local S = {}
local function add(sample) S[#S + 1] = sample end

for _, op in ipairs {'sum', 'mean', 'var'} do
  for _, a in ipairs {{}, {axes = 1}, {axes = {2, 3}}, {axes = {-1, -2}, keepdim = true},
                      {axes = {1, 3}, keepdim = true}} do
    add {op = op, inputs = {{3, 5, 4}}, attrs = a, rtol = 1e-4}
  end
  for _, a in ipairs {{axes = {3, 4}, keepdim = true}, {axes = {1, 3, 4}}, {axes = 2}, {axes = -1}} do
    add {op = op, inputs = {{2, 7, 5, 4}}, attrs = a, rtol = 1e-4}
  end
  add {op = op, inputs = {{7}}}
  add {op = op, inputs = {{2, 3}}, attrs = {axes = {1, 1}}, error = op .. ': axis 1 is given twice'}
  add {op = op, inputs = {{2, 3}}, attrs = {axes = 3}, error = op .. ': no axis 3 in a tensor of 2 dimensions'}
end
add {op = 'var', inputs = {{3, 5}}, attrs = {axes = 2, correction = 0}}
add {op = 'sum', inputs = {{0, 3}}, attrs = {axes = 1}}
add {op = 'sum', inputs = {{}}}
add {op = 'sum', inputs = {{40, 3, dtype = 'u8', low = 0, high = 250}}}
add {op = 'sum', inputs = {{70, 1200}}, attrs = {axes = 1}, grad = false, rtol = 1e-4} -- several segments
add {op = 'sum', inputs = {{3, 70000}}, attrs = {axes = 2}, grad = false, rtol = 1e-3, atol = 1e-3}

for _, op in ipairs {'max_dim', 'min_dim'} do
  for axis = 1, 4 do add {op = op, inputs = {{2, 7, 5, 4}}, attrs = {axis = axis}, dtypes = {'f32', 'f64'}} end
  add {op = op, inputs = {{5, 3}}, attrs = {axis = -1, keepdim = true}, dtypes = {'f32', 'f64'}}
  for axis = 1, 3 do
    add {op = op, inputs = {{3, 37, 1100}}, attrs = {axis = axis}, dtypes = {'f32', 'bf16'}, grad = false}
  end
  add {op = op, inputs = {{600, dtype = 'bf16', low = -2, high = 2}}, attrs = {axis = 1}, grad = false}
  add {op = op, inputs = {{9, dtype = 'i64', low = -5, high = 5}}, attrs = {axis = 1}}
  add {op = op, inputs = {{0, 3}}, attrs = {axis = 2}, grad = false}
  add {op = op, inputs = {{3, 0}}, attrs = {axis = 1}, grad = false}
  add {op = op, inputs = {{0, 5, 2, 2}}, attrs = {axis = 2}, dtypes = {'f32', 'bf16'}, grad = false}
  add {op = op, inputs = {{0, 3}}, attrs = {axis = 1}, error = op .. ': axis 1 is empty'}
end

add {op = 'sum_to', inputs = {{2, 7, 5, 4}}, attrs = {size = {7, 1, 1}}}
add {op = 'sum_to', inputs = {{2, 7, 5, 4}}, attrs = {size = {2, 7, 1, 1}}}
add {op = 'sum_to', inputs = {{3, 4}}, attrs = {size = {}}}
add {op = 'sum_to', inputs = {{3, 4}}, attrs = {size = {3, 4}}}
add {op = 'sum_to', inputs = {{3, 4}}, attrs = {size = {2, 4}}, error = "sum_to: size does not broadcast"}

add {op = 'allclose', inputs = {{3, 4}, {4}}}
add {op = 'allclose', inputs = {{3, 4, value = 1}, {1, value = 1.000001}}}
add {op = 'allclose', inputs = {{3}, {4}}, error = 'allclose: the sizes do not broadcast'}

return S
