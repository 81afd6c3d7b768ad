-- test_memory.lua - counters, the limit and its message, collection under pressure, the cache.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'

return function(t)
  t.case('what lies in an arena is released with it', function()
    local p = dlv3.ones{4}:requires_grad_()
    local sgd = require 'dlv3.optim'.SGD({{params = {p}}}, {lr = 0.1})
    sgd.groups[1].arena.p:release()
    t.error(function() return p + 1 end, 'released')
    sgd.groups[1].arena.grad:release()
    t.error(function() return p.grad + 1 end, 'released')
  end)

  t.case('counters follow storages', function()
    local before = dlv3.memory().live
    local x = dlv3.zeros{1024, 1024}
    t.ok(dlv3.memory().live - before >= 4 * 1024 * 1024)
    local v = x:narrow(1, 1, 10)
    x:release()
    t.eq(dlv3.memory().live, before)
    t.error(function() return v + 1 end, 'released')
    t.ok(dlv3.memory().peak >= before + 4 * 1024 * 1024)
    t.ok(dlv3.memory().reserved >= dlv3.memory().live)
  end)

  t.case('the limit is an error that names the largest tensors, after garbage was collected', function()
    collectgarbage()
    collectgarbage()
    runtime.flush(0)
    dlv3.memory_limit(dlv3.memory().reserved + 64 * 2 ^ 20)
    local ok, message = pcall(function()
      local keep = dlv3.zeros{10 * 2 ^ 20 / 4}
      -- garbage: collected on the way
      local function fill() for _ = 1, 20 do local _ = dlv3.zeros{20 * 2 ^ 20 / 4} end end
      fill()
      t.error(function() dlv3.zeros{100 * 2 ^ 20 / 4} end, 'out of memory.*largest live tensors: 10%.')
      t.eq(keep[1]:item(), 0)
      t.eq((keep[1] + 1):item(), 1) -- and the program goes on
    end)
    dlv3.memory_limit(0)
    t.ok(ok, message)
  end)

  t.case('dead handles are collected under pressure', function()
    for _ = 1, 100 do local _ = dlv3.empty{2 ^ 25 / 4} end -- 32 MiB each, 3.2 GiB in all
    t.ok(dlv3.memory().live < 1.5 * 2 ^ 30, 'garbage was not collected')
  end)

  t.case('the tape keeps of a batch norm what its activation needs', function()
    local x = dlv3.randn{4, 16, 64, 64}:requires_grad_()
    local mean, var = dlv3.zeros{16}, dlv3.ones{16}
    local map = 4 * 4 * 16 * 64 * 64
    local function kept(activation, residual)
      collectgarbage()
      collectgarbage()
      local before = dlv3.memory().live
      local loss = x:batch_norm(nil, nil, mean, var, residual, {activation = activation}):sum()
      collectgarbage()
      collectgarbage()
      local n = (dlv3.memory().live - before) / map
      loss:backward()
      x.grad = nil
      return math.floor(n + 0.5)
    end
    t.eq({kept 'none', kept 'relu', kept 'hardswish'}, {0, 0, 0})
    local residual = x:detach():clone()
    t.eq({kept('none', residual), kept('relu', residual)}, {0, 0}) -- it is there
  end)

  t.case('of a batch norm and the convolution after it the tape keeps one map', function()
    local x = dlv3.randn{4, 16, 64, 64}:requires_grad_()
    local w = dlv3.randn({16, 16, 1, 1}, {requires_grad = true})
    local map = 4 * 4 * 16 * 64 * 64
    collectgarbage()
    collectgarbage()
    local before = dlv3.memory().live
    local loss = x:batch_norm(nil, nil, nil, nil, nil, {training = true, activation = 'relu'}):conv2d(w):sum()
    collectgarbage()
    collectgarbage()
    t.eq(math.floor((dlv3.memory().live - before) / map + 0.5), 0) -- x itself was there
    loss:backward()
  end)

  t.case('a packed weight is kept from its second use on, and not while the weight changes', function()
    local function resident() return system.peak_memory() end -- packed forms are not tensors; the peak never falls
    local list = {}
    for i = 1, 24 do list[i] = dlv3.zeros{256, 256, 3, 3} end -- 2.25 MiB each
    local x = dlv3.zeros{1, 256, 8, 8}
    local function pass() for _, w in ipairs(list) do x:conv2d(w, {padding = 1}):release() end end
    for _ = 1, 2 do
      pass()
      for _, w in ipairs(list) do w:mul_(1) end
    end
    local before = resident()
    pass()
    for _, w in ipairs(list) do w:mul_(1) end
    pass()
    t.ok(resident() - before < 27 * 2 ^ 20, 'changed between uses')
  end)
end
