-- Samples of the elementwise ops; see tests/harness.lua for the fields.

local S = {}
local function add(sample) S[#S + 1] = sample end

-- Activations and functions of one tensor: odd sizes, 4-d (channels-last), nothing at all, one
-- element, a kink avoided.
local kinks = {relu = {0}, relu6 = {0, 6}, hardswish = {-3, 3}, hardsigmoid = {-3, 3}, abs = {0}}
for _, op in ipairs {'relu', 'relu6', 'hardswish', 'hardsigmoid', 'sigmoid', 'tanh'} do
  for _, sizes in ipairs {{7, 5}, {2, 3, 5, 4}, {0, 3}, {}, {1}} do
    sizes.away, sizes.low, sizes.high = kinks[op], -7, 7
    add {op = op, inputs = {sizes}}
  end
  add {op = op, inputs = {{3, dtype = 'i64'}}, error = op .. ': x must be a float tensor'}
  add {op = op .. '_backward', inputs = {{2, 3, 5, 4}, {2, 3, 5, 4, away = kinks[op], low = -7, high = 7}}}
  add {op = op .. '_backward', inputs = {{2}, {3}}, error = op .. '_backward: .* must be %[2%]'}
end

for _, op in ipairs {'neg', 'abs', 'exp', 'square', 'sin', 'cos'} do
  add {op = op, inputs = {{7, 5, away = kinks[op]}}}
  add {op = op, inputs = {{2, 3, 5, 4, away = kinks[op]}}}
end
for _, op in ipairs {'log', 'sqrt'} do add {op = op, inputs = {{7, 5, low = 0.2, high = 4}}} end
for _, op in ipairs {'sign', 'floor', 'ceil', 'round'} do add {op = op, inputs = {{7, 5, low = -9, high = 9}}} end
for _, op in ipairs {'neg', 'abs', 'square', 'sign', 'floor', 'ceil', 'round'} do
  add {op = op, inputs = {{5, dtype = 'i64', low = -4, high = 4}}}
  add {op = op, inputs = {false}, error = op .. ': x must be a tensor'}
end
for _, op in ipairs {'exp', 'log', 'sqrt', 'sin', 'cos'} do
  add {op = op, inputs = {{5, dtype = 'i32', low = -4, high = 4}}, error = op .. ': x must be a float tensor'}
end
for _, op in ipairs {'isfinite', 'logical_not'} do
  add {op = op, inputs = {{7, 5}}}
  add {op = op, inputs = {false}, error = op .. ': x must be a tensor'}
end

add {op = 'clamp', inputs = {{7, 5, away = {-1, 0.5}}}, attrs = {min = -1, max = 0.5}}
add {op = 'clamp', inputs = {{7, 5, away = {0}}}, attrs = {min = 0}}
add {op = 'clamp', inputs = {{5, dtype = 'i64', low = -4, high = 4}}, attrs = {max = 2}}
add {op = 'clamp', inputs = {{2}}, attrs = {min = 1, max = 0}, error = 'clamp: min 1 is above max 0'}

-- Two operands: same sizes, broadcasting either way, channels-last against [n,c,1,1], 0-d, empty, a
-- number.
local pairs_of = {{{7, 5}, {7, 5}}, {{2, 3, 5, 4}, {3, 1, 1}}, {{3, 1}, {4}}, {{2, 40, 3, 3}, {2, 40, 1, 1}},
                  {{}, {2, 3}}, {{0, 3}, {1, 3}}}
for _, op in ipairs {'add', 'sub', 'mul', 'div', 'pow', 'maximum', 'minimum', 'eq', 'ne', 'lt', 'le', 'gt', 'ge',
                     'logical_and', 'logical_or'} do
  for _, p in ipairs(pairs_of) do
    local a, b = {unpack(p[1])}, {unpack(p[2])}
    if op == 'div' then b.low, b.high = 0.5, 2 end
    if op == 'pow' then a.low, a.high, b.low, b.high = 0.3, 2, -2, 2 end
    add {op = op, inputs = {a, b}, rtol = 1e-4}
  end
  add {op = op, inputs = {{5, dtype = 'i64', low = 1, high = 4}, {5, dtype = 'u8', low = 1, high = 4}}}
  add {op = op, inputs = {{2, 3}, {4, 3}}, error = op .. ': the sizes do not broadcast: 2 against 4 in axis 1'}
end
for _, op in ipairs {'add_', 'sub_', 'mul_', 'div_', 'copy_'} do
  add {op = op, inputs = {{2, 3, 5, 4}, {2, 3, 5, 4, low = 0.5, high = 2}}}
  add {op = op, inputs = {{7, 5}, {5, low = 0.5, high = 2}}}
  add {op = op, inputs = {{4, dtype = 'i64', low = 0, high = 9}, {1, dtype = 'u8', low = 1, high = 3}}}
  add {op = op, inputs = {{3}, {2, 3}}, error = op .. ': y does not broadcast to x'}
end
for _, op in ipairs {'add_', 'sub_', 'mul_', 'div_'} do
  add {op = op, inputs = {{3, dtype = 'i64'}, {3}},
       error = op .. ': x holds integers %(i64%) and keeps its dtype, y is f32'}
end

add {op = 'where', inputs = {{3, 4, dtype = 'bool'}, {3, 4}, {4}}, wrt = {2, 3}}
add {op = 'where', inputs = {{4, 1, dtype = 'u8'}, {}, {2, 4, 3}}, wrt = {2, 3}}
add {op = 'where', inputs = {{2, dtype = 'bool'}, {2}, {2, dtype = 'i64'}}, error = 'where: b must be f32'}

-- Fills
add {op = 'fill_', inputs = {{2, 3, 5, 4}}, attrs = {value = 1.5}}
add {op = 'fill_', inputs = {{5, dtype = 'u8'}}, attrs = {value = 7}}
add {op = 'fill_', inputs = {{5}}, error = 'fill_: value must be given'}
add {op = 'arange_', inputs = {{2, 3, 5, 4}}, attrs = {start = 3, step = -0.5}}
add {op = 'arange_', inputs = {{4}}, attrs = {start = 0 / 0}, error = 'arange_: start is not a number'}
for _, op in ipairs {'uniform_', 'normal_'} do
  add {op = op, inputs = {{2, 3, 5, 4}}}
  add {op = op, inputs = {{3, dtype = 'i64'}}, error = op .. ': x must be a float tensor'}
end
add {op = 'randint_', inputs = {{50, dtype = 'i64'}}, attrs = {low = -3, high = 4}}
add {op = 'randint_', inputs = {{5, dtype = 'i64'}}, attrs = {low = 3, high = 3},
     error = 'randint_: %[3, 3%) must hold'}
add {op = 'dropout', inputs = {{2, 3, 5, 4}}, attrs = {p = 0.3}, strided = false}
add {op = 'dropout', inputs = {{37}}, attrs = {p = 0.9}}
add {op = 'dropout', inputs = {{37}}, attrs = {p = 0.5, training = false}}
add {op = 'dropout', inputs = {{37}}, attrs = {p = 1}}
add {op = 'dropout', inputs = {{3}}, attrs = {p = 1.5}, error = 'dropout: p must be a probability'}
add {op = 'dropout_backward', inputs = {{2, 3, 5, 4}, {2, dtype = 'i64', low = 1, high = 9}}, attrs = {p = 0.3},
     strided = false}
add {op = 'dropout_backward', inputs = {{3}, {3, dtype = 'i64'}}, error = 'dropout_backward: state must be %[2%]'}

for _, to in ipairs {'f64', 'bf16', 'f16', 'i64', 'i32', 'u8', 'bool'} do
  add {op = 'cast', inputs = {{2, 3, 5, 4, low = -9, high = 300}}, attrs = {dtype = to}, grad = to == 'f64'}
end
add {op = 'cast', inputs = {{9, dtype = 'i64', low = -9, high = 9}}, attrs = {dtype = 'f32'}}
add {op = 'cast', inputs = {{2}}, attrs = {dtype = 'f33'}, error = "cast: dtype must be a dtype"}

return S
