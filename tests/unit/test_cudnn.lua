-- test_cudnn.lua - the graphs that kernels/cuda/cudnn.cu hands to cuDNN, before the real one: it
-- makes plans for a device of which it has only the properties (tests/cudnn/plans.cpp). Nothing is
-- run.

local dlv3 = require 'dlv3'
local system = require 'dlv3.os'
local models = require 'models'
local convolutions = require 'bench.convolutions'

return function(t)
  local program = t.directory .. '/../build/cudnn_plans'
  local missing = not system.is_file(program) and 'no cuDNN from 9.8 on' or nil
  local FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = 0, 1, 2

  -- Every problem's answer: {engine =, workspace = bytes}, or {} where cuDNN has none.
  local function plans(problems)
    local path, answers = t.folder() .. '/problems', {}
    local file = assert(io.open(path, 'w'))
    file:write(table.concat(problems, '\n'), '\n')
    file:close()
    local text, status = t.run(("'%s' '%s/cudnn/h100.json' < '%s'"):format(program, t.directory, path))
    t.eq(status, 0, text)
    for line in text:gmatch '[^\n]+' do
      local engine, workspace = line:match '^engine (%-?%d+) workspace (%d+)$'
      answers[#answers + 1] = {engine = tonumber(engine), workspace = tonumber(workspace)}
    end
    t.eq(#answers, #problems, text)
    return answers
  end

  local function problem(pass, dtype, c, batch, with)
    local o = c.options
    return ('%d %s %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d'):format(
        pass, dtype, batch, c.cin, c.h, c.w, c.cout, c.kernel[1], c.kernel[2], c.out_h, c.out_w, o.groups,
           o.stride[1], o.padding[1], o.dilation[1], with.residual and 1 or 0, with.bias and 1 or 0,
               with.relu and 1 or 0, with.tf32 and 1 or 0)
  end

  -- The convolutions of the models at 480 that cuDNN gets: depthwise ones have kernels of their
  -- own.
  local lists = {}
  local function wanted(name)
    if lists[name] then return lists[name] end
    local list = {}
    lists[name] = list
    for _, c in ipairs(convolutions.distinct(convolutions.calls(models[name]{aux = true},
        dlv3.zeros{1, 3, 480, 480}))) do
      if c.options.groups == 1 then list[#list + 1] = c end
    end
    return list
  end

  local function all_found(name, dtypes, passes, batch, each_with)
    local problems = {}
    for _, c in ipairs(wanted(name)) do
      for _, dtype in ipairs(dtypes) do
        for _, pass in ipairs(passes) do
          for _, with in ipairs(each_with) do problems[#problems + 1] = problem(pass, dtype, c, batch, with) end
        end
      end
    end
    for i, answer in ipairs(plans(problems)) do t.ok(answer.engine, 'no engine for ' .. problems[i]) end
  end

  for _, name in ipairs {'deeplabv3_resnet50', 'deeplabv3_mobilenet_v3_large'} do
    t.case('every pass of ' .. name .. ' has an engine that adds in one order, in every dtype, with TF32 and without',
           function()
      if missing then return t.skip(missing) end
      local passes = {FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT}
      all_found(name, {'bf16', 'f16', 'f32'}, passes, 16, {{tf32 = true}})
      all_found(name, {'f32'}, passes, 4, {{}})
    end)

    t.case('bias, residual and relu of ' .. name .. ' are part of the convolution', function()
      if missing then return t.skip(missing) end
      all_found(name, {'bf16', 'f16', 'f32'}, {FORWARD}, 8, {
        {tf32 = true, bias = true}, {tf32 = true, bias = true, relu = true},
        {tf32 = true, bias = true, residual = true}, {tf32 = true, bias = true, residual = true, relu = true},
      })
    end)
  end
end
