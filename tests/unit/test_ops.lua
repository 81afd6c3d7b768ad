-- test_ops.lua - every op of runtime/ops.def against what harness.lua asks of it.

local dlv3 = require 'dlv3'

return function(t)
  local harness = dofile(t.directory .. '/harness.lua')
  harness.run(t, {'conv', 'pool', 'norm', 'resample', 'loss', 'pointwise', 'reduce', 'shape', 'optim', 'collective'})

  -- What the runtime exports of an op, beside the text of its signature: no name is cut, none is
  -- left out.
  t.case('the op table says what the signatures say', function()
    local function names_in(text)
      local names = {}
      for name in text:gmatch '[%w_]+' do names[#names + 1] = name end
      return names
    end
    local function names_of(list)
      local names = {}
      for i, entry in ipairs(list) do names[i] = entry.name end
      return names
    end
    for _, op in ipairs(dlv3.ops) do
      local ins, outs = op.signature:match '^(.-)%->(.*)$'
      t.eq(names_of(op.inputs), names_in(ins), op.name)
      t.eq(names_of(op.outputs), names_in(outs), op.name)
      for _, input in ipairs(op.inputs) do
        local marks = (' ' .. ins):match('[^%w_]' .. input.name .. '([^%w_%s]*)')
        t.eq({input.optional, input.in_place}, {marks:find '%?' ~= nil, marks:find '!' ~= nil}, op.name)
      end
    end
  end)

  t.case('attributes are named in messages', function()
    t.error(function() dlv3.zeros{1, 3, 4, 4}:conv2d(dlv3.zeros{2, 4, 3, 3}, {activation = 'relu'}) end,
            'groups 1  activation relu')
    t.error(function() dlv3.zeros{2, 3}:matmul(dlv3.zeros{4, 3}, {trans_a = true}) end, 'trans_a true  trans_b false')
  end)
end
