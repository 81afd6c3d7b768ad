-- test_cuda_graph.lua - programs as one graph: the same bits as call after call, and what makes a
-- graph no longer right.

local dlv3 = require 'dlv3'
local F = require 'dlv3.core.ffi'
local runtime = require 'dlv3.core.runtime'
local models = require 'models'
local optim = require 'dlv3.optim'
local host = require 'dlv3.host'

return function(t)
  local device = dofile(t.directory .. '/gpu.lua')(t)
  local training_step = dofile(t.directory .. '/training.lua')
  local gpu = #dlv3.devices() > 1 and not dlv3.devices().cuda:find 'playing a GPU'
  local why = device.missing()
  if why then
    t.case('graphs on a device cuda:0', function() t.skip(why) end)
    return
  end
  if os.getenv 'DLV3_SYNC' or os.getenv 'DLV3_VERBOSE' or os.getenv 'DLV3_GRAPH' then
    t.case('graphs on a device cuda:0', function() t.skip 'DLV3_SYNC, DLV3_VERBOSE or DLV3_GRAPH is set' end)
    return
  end

  local function graphs()
    local now = runtime.graphs()
    return {captures = now.captures, launches = now.launches}
  end
  -- Captures and launches of fn().
  local function counted(fn)
    local before = graphs()
    fn()
    local after = graphs()
    return after.captures - before.captures, after.launches - before.launches
  end
  -- What the played device counts: kernels and copies on their own, graphs, waits.
  local function streams()
    if gpu then return 0, 0, 0 end
    if not rawget(_G, 'cuda_host_declared') then
      rawset(_G, 'cuda_host_declared', true)
      F.cdef 'int64_t cuda_host_count(int what);'
    end
    local played = F.load(os.getenv 'DLV3_CUDA_LIBRARY' or device.library)
    return tonumber(played.cuda_host_count(0)), tonumber(played.cuda_host_count(1)), tonumber(played.cuda_host_count(2))
  end

  t.case('arguments, results: each call its own, older results stay', function()
    local fast = dlv3.compile(function(a, b) return a * 2 + b, {a:relu()}, b end)
    local kept = {}
    local captures, launches = counted(function()
      for i = 1, 6 do
        local a, b = dlv3.randn({5, 7}, {device = 'cuda'}), dlv3.randn({5, 7}, {device = 'cuda'})
        local y, list, same = fast(a, b)
        kept[i] = {y, a * 2 + b, list[1], a:relu(), same, b}
      end
    end)
    t.eq({captures, launches}, {1, 5})
    for i = 1, 6 do
      for k = 1, 5, 2 do t.eq(kept[i][k]:to('cpu'), kept[i][k + 1]:to('cpu'), ('call %d, result %d'):format(i, k)) end
    end
    local strided = dlv3.compile(function(a) return a:permute{2, 1} + 1 end)
    for _ = 1, 3 do
      local a = dlv3.randn({4, 6}, {device = 'cuda'})
      t.eq(strided(a:permute{2, 1}):to('cpu'), (a + 1):to('cpu'))
      t.eq(strided(a:narrow(2, 2, 3)):to('cpu'), (a:narrow(2, 2, 3):permute{2, 1} + 1):to('cpu'))
    end
  end)

  t.case('kernels from source text and matrix products are parts of a graph', function()
    local axpy = dlv3.cuda_kernel([[
      __global__ void axpy(float *y, const float *x, float a, int n) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) y[i] += a * x[i];
      }]], 'axpy')
    local w = dlv3.randn({8, 8}, {device = 'cuda'})
    local function fn(a, b)
      local y = a:matmul(w)
      axpy(1, 64, y, b, 0.5, 64)
      return y
    end
    local fast = dlv3.compile(fn)
    local captures, launches = counted(function()
      for _ = 1, 4 do
        local a, b = dlv3.randn({8, 8}, {device = 'cuda'}), dlv3.randn({8, 8}, {device = 'cuda'})
        t.eq(fast(a, b), fn(a, b))
      end
    end)
    t.eq({captures, launches}, {1, 3})
    local mine = dlv3.zeros({64}, {device = 'cuda'})
    local into = dlv3.compile(function(b) axpy(1, 64, mine, b, 1, 64) return b * 1 end)
    captures, launches = counted(function()
      for _ = 1, 3 do into(dlv3.ones({64}, {device = 'cuda'})) end
    end)
    t.eq({captures, launches}, {1, 2})
    t.eq(mine:to 'cpu', dlv3.full({64}, 3))
  end)

  t.case('random numbers advance, with others between', function()
    local function noise(x) return x:dropout{p = 0.5} + dlv3.rand_like(x) end
    local fast, x = dlv3.compile(noise), dlv3.ones({7, 5}, {device = 'cuda'})
    local function draws(fn)
      dlv3.manual_seed(3)
      local out = {}
      for i = 1, 4 do out[i], out[i + 4] = fn(x):to('cpu'), dlv3.rand({4}, {device = 'cuda'}):to('cpu') end
      return out
    end
    local want, got = draws(noise), nil
    local _, launches = counted(function() got = draws(fast) end)
    for i = 1, 8 do t.eq(got[i], want[i], 'draw ' .. i) end
    t.eq(launches, 3)
  end)

  t.case('what changes outside: contents, versions, memory', function()
    local w = dlv3.randn({4, 3, 3, 3}, {device = 'cuda'}) -- f32 beside bf16: the convolution keeps it prepared
    local x = dlv3.randn({2, 3, 8, 8}, {device = 'cuda', dtype = 'bf16'})
    local function plain() return x:conv2d(w, {padding = 1}):float() end
    local fast = dlv3.compile(plain)
    local function same(what) t.eq(fast():to('cpu'), plain():to('cpu'), what) end
    local captures, launches = counted(function() for i = 1, 3 do same('call ' .. i) end end)
    t.eq({captures, launches}, {1, 2})
    captures, launches = counted(function()
      for i = 1, 8 do
        w:mul_(1.5)
        same('the weight changed, ' .. i)
      end
    end)
    t.eq({captures, launches}, {1, 7}, 'making the prepared weight is part of the graph now')
    x:mul_(-1)
    same 'the input changed'
    dlv3.compile(function(v) return v * 2 + v end)(dlv3.randn({300000}, {device = 'cuda'})) -- a larger arena
    for _ = 1, 5 do same 'the arena moved' end
    captures, launches = counted(function()
      for _ = 1, 12 do same 'again' end
      runtime.flush(1)
      for _ = 1, 12 do same 'after a flush' end
    end)
    t.ok(captures >= 1 and launches > 12, ('%d captures, %d launches'):format(captures, launches))
    w:release()
    t.error(function() fast() end, 'was released since dlv3.compile recorded the call')
  end)

  t.case('tensors made between launches are not written over by scratch memory', function()
    local x = dlv3.randn({64, 50}, {device = 'cuda'})
    local fast = dlv3.compile(function(v) return v:sum(1), v:square():mean() end)
    local kept, want = {}, {}
    for i = 1, 5 do
      local sum = fast(x + i)
      want[#want + 1], kept[#kept + 1] = (x + i):sum(1):to('cpu'), sum
      for n = 1, 12 do
        kept[#kept + 1] = dlv3.full({2 ^ n}, i, {device = 'cuda'})
        want[#want + 1] = dlv3.full({2 ^ n}, i)
      end
    end
    for i = 1, #kept do t.eq(kept[i]:to('cpu'), want[i], i) end
  end)

  t.case('an argument that is changed in place: call after call; arguments in one storage', function()
    local add = dlv3.compile(function(a) a:add_(1) return a * 2 end)
    local a = dlv3.zeros({3}, {device = 'cuda'})
    local captures, launches = counted(function() for i = 1, 4 do t.eq(add(a):to('cpu'), dlv3.full({3}, 2 * i)) end end)
    t.eq({captures, launches}, {0, 0})
    t.ok(runtime.graphs().refused:find 'changes an argument in place', runtime.graphs().refused)
    local both = dlv3.compile(function(p, q) return p - q end)
    local x = dlv3.arange(0, 60):float():to('cuda')
    captures, launches = counted(function()
      for _ = 1, 3 do t.eq(both(x:narrow(1, 1, 20), x:narrow(1, 33, 20)):to('cpu'), dlv3.full({20}, -32)) end
      t.eq(both(dlv3.full({20}, 9, {device = 'cuda'}), dlv3.full({20}, 2, {device = 'cuda'})):to('cpu'),
           dlv3.full({20}, 7), 'in two')
      t.eq(both(x:narrow(1, 2, 20), x:narrow(1, 35, 20)):to('cpu'), dlv3.full({20}, -33),
           'on other boundaries: call after call')
    end)
    t.eq({captures, launches}, {1, 3})
  end)

  t.case('a wrong label is said once, and the graph goes on', function()
    local fast = dlv3.compile(function(x, y) return x:cross_entropy(y) end)
    local x, y = dlv3.randn({1, 2, 2, 2}, {device = 'cuda'}), dlv3.zeros({1, 2, 2}, {dtype = 'u8', device = 'cuda'})
    local want = x:cross_entropy(y):item()
    for _ = 1, 3 do t.eq(fast(x, y):item(), want) end
    t.error(function() return fast(x, y + 7):item() end, 'cross_entropy: target has the label 7')
    t.eq(fast(x, y):item(), want)
  end)

  t.case('memory: nothing is left when the programs are gone', function()
    local x = dlv3.randn({1000}, {device = 'cuda'})
    collectgarbage() collectgarbage()
    local before = dlv3.memory('cuda').live
    do
      local fast = dlv3.compile(function(v) return (v * 2):sum() end)
      for _ = 1, 4 do fast(x):release() end
    end
    collectgarbage() collectgarbage()
    t.eq(dlv3.memory('cuda').live, before)
  end)

  t.case('weights in bf16 and f16: sgd_ writes the copy that convolutions read; after what else changes them it is '
         .. 'made anew', function()
    for _, dtype in ipairs {'bf16', 'f16'} do
      local first, second = dlv3.randn({8, 8, 3, 3}, {device = 'cuda'}), dlv3.randn({6, 8, 1, 1}, {device = 'cuda'})
      for _, w in ipairs {first, second} do w.requires_grad = true end
      local sgd = optim.SGD({first, second}, {lr = 1e-4, momentum = 0.5})
      local x = dlv3.randn({1, 8, 5, 5}, {device = 'cuda'}):to(dtype)
      local function forward(w) return dlv3.no_grad(function() return x:conv2d(w) end) end
      local function right(what)
        for i, w in ipairs {first, second} do
          t.eq(forward(w):to('cpu'), forward(w:detach():clone()):to('cpu'),
               ('%s, %s, weight %d'):format(dtype, what, i))
        end
      end
      local function launched(w)
        local before = streams()
        forward(w)
        return streams() - before
      end
      local function loss(a, b) return x:conv2d(a):float():square():sum() + (b and x:conv2d(b):float():sum() or 0) end
      local function step(only)
        sgd:zero_grad()
        local y = loss(first, not only and second)
        y:backward()
        sgd:step()
        return y
      end
      -- What a recorded step computes with, and that it moves a weight.
      local function replay(fast, what)
        local a, b = first:detach():clone(), second:detach():clone()
        t.eq(fast():item(), loss(a, b):item(), dtype .. ', ' .. what)
        t.ok((first - a):abs():max():item() > 0)
        right(what)
      end
      right 'at first'
      for i = 1, 3 do
        step(i == 2) -- a part of the arena alone
        t.eq(launched(second), launched(second), 'nothing is cast')
        right('step ' .. i)
      end
      first:detach():mul_(-1)
      right 'a weight changed by hand'
      step()
      right 'and a step'
      local fast = dlv3.compile(function() return step() end)
      local captures, launches = counted(function() for i = 1, 5 do replay(fast, 'replay ' .. i) end end)
      t.eq({captures, launches}, {1, 4})
      second:detach():mul_(-1)
      for i = 1, 8 do replay(fast, 'after a change, replay ' .. i) end
      local decayed = dlv3.compile(function()
        local y = step()
        first:detach():mul_(0.5)
        return y
      end)
      for i = 1, 6 do replay(decayed, 'changed by hand in the function, replay ' .. i) end
    end
  end)

  t.case('a step that reads its weights in bf16 and in f16', function()
    local x, from = dlv3.randn({1, 8, 5, 5}, {device = 'cuda'}), dlv3.randn({8, 8, 3, 3}, {device = 'cuda'})
    local function losses(compiled)
      local w = from:clone():requires_grad_()
      local sgd = optim.SGD({w}, {lr = 1e-3})
      local function part(dtype) return x:to(dtype):conv2d(w):float():square():mean() end
      local function step()
        sgd:zero_grad()
        local loss = part 'bf16' + part 'f16'
        loss:backward()
        sgd:step()
        return loss
      end
      if compiled then step = dlv3.compile(step) end
      local list = {}
      for i = 1, 6 do
        if i == 2 then w:detach():mul_(0.5) dlv3.no_grad(function() return x:to 'bf16':conv2d(w) end) end
        list[i] = step():item()
      end
      return list
    end
    t.eq(losses(true), losses(false))
  end)

  if device.sanitized then return end -- fibers are slow then

  -- Losses, weights and the random state of a step of each size, with falling rates. Random numbers
  -- are drawn on the device alone: the generator moves to where it is used, and a program that it
  -- moves away from is recorded anew.
  local function trained(dtype, compiled, sizes, between)
    dlv3.manual_seed(5)
    local model = models.deeplabv3_mobilenet_v3_large{num_classes = 5, aux = true}
    model:to('cuda'):train()
    local sgd = optim.SGD({{params = model:parameters()}}, {lr = 0.01, momentum = 0.9, weight_decay = 1e-4})
    local step = training_step(model, sgd, true)
    if compiled then step = dlv3.compile(step) end
    local losses, put = {}, {}
    for i, size in ipairs(sizes) do
      dlv3.scope(function()
        local x = dlv3.randn({2, 3, size, size}, {device = 'cuda'}):to(dtype)
        local target = dlv3.randint(0, 5, {2, size, size}, {dtype = 'u8', device = 'cuda'})
        sgd.groups[1].lr = 0.01 / i
        local kernels, launches = streams()
        local loss = step(x, target)
        local kernels_after, launches_after = streams()
        put[i] = {kernels_after - kernels, launches_after - launches}
        losses[i] = loss:item()
        if between then between(i, model, x) end
      end)
    end
    local state = {}
    for key, x in dlv3.items(model:state_dict()) do state[#state + 1] = {key, x:to('cpu'):tobytes()} end
    return {losses = losses, state = state, rng = dlv3.get_rng_state(), put = put}
  end
  local function same(got, want)
    t.eq(got.losses, want.losses)
    t.eq(got.rng, want.rng)
    for i, entry in ipairs(want.state) do t.ok(entry[2] == got.state[i][2], entry[1]) end
  end
  -- Other work with the model between the steps: prepared weights are made outside of the graph
  -- too.
  local function forward(i, model, x)
    dlv3.no_grad(function() model:logits(x) end)
    if i == 4 then runtime.flush(1) end
  end

  t.case('a step is queued without a wait, from the second replay on, and its loss read later', function()
    dlv3.manual_seed(5)
    local model = models.deeplabv3_mobilenet_v3_large{num_classes = 5, aux = true}
    model:to('cuda'):train()
    local sgd = optim.SGD({{params = model:parameters()}}, {lr = 0.01, momentum = 0.9})
    local step = dlv3.compile(training_step(model, sgd, true))
    local image, labels = dlv3.randn{2, 3, 9, 9}, dlv3.randint(0, 5, {2, 9, 9}, {dtype = 'u8'})
    local later, losses = {}, {}
    for i = 1, 5 do
      dlv3.scope(function()
        local _, _, before = streams()
        local loss = step(image:to 'cuda', labels:to 'cuda')
        later[i] = loss:item_later()
        local _, _, after = streams()
        if i > 2 then t.eq(after - before, 0) end
        losses[i] = loss:item()
      end)
    end
    for i = 1, 5 do t.eq({later[i](), later[i]()}, {losses[i], losses[i]}) end
  end)

  t.case('training is the same to the last bit, one launch a step', function()
    local sizes = {9, 9, 17, 9, 17, 9, 17, 9}
    local want, got = trained('f32', false, sizes), nil
    local captures, launches = counted(function() got = trained('f32', true, sizes) end)
    same(got, want)
    t.eq({captures, launches}, {3, 5}, 'two sizes, and the first once more: the second moved the arena')
    if gpu then return end
    for i = 7, 8 do t.eq(got.put[i], {4, 1}, 'the learning rate, image, target; the graph; the loss') end
    t.ok(want.put[7][1] > 500 and want.put[7][2] == 0)
  end)

  t.case('in bf16, with other work and a flush between', function()
    local sizes = {9, 9, 9, 9, 9, 9}
    local want, got = trained('bf16', false, sizes, forward), nil
    local captures, launches = counted(function() got = trained('bf16', true, sizes, forward) end)
    same(got, want)
    t.eq({captures, launches}, {2, 4})
  end)

  -- Four calls of a convolution in a process of its own: whether they are right, captures and
  -- launches, and what was said.
  local function apart(environment)
    if gpu then t.skip 'only on the played device' end
    local code = [[
local runtime, x, w = require "dlv3.core.runtime", dlv3.randn{1, 3, 9, 9}:to "cuda", dlv3.randn{4, 3, 3, 3}:to "cuda"
local fast, right = dlv3.compile(function(v) return v:conv2d(w) end), true
for i = 1, 4 do right = right and fast(x + i):to("cpu"):equal((x + i):conv2d(w):to("cpu")) end
print(right, runtime.graphs().captures, runtime.graphs().launches, runtime.graphs().refused)]]
    return t.run(("DLV3_CUDA_LIBRARY='%s' %s '%s' -e '%s' 2>&1"):format(
        device.library, environment, host.executable, code))
  end

  t.case('DLV3_GRAPH=0, DLV3_SYNC, DLV3_VERBOSE: call after call', function()
    t.eq(apart '', 'true\t1\t3\t\n')
    t.eq(apart 'DLV3_GRAPH=0', 'true\t0\t0\t\n')
    t.eq(apart 'DLV3_SYNC=1', 'true\t0\t0\t\n')
    local output = apart 'DLV3_VERBOSE=1'
    t.ok(output:find 'compile: one graph %(1 calls%)' and output:find 'true\t1\t0\t\n$', output)
  end)

  t.case('a kernel from source text keeps no program from being one graph', function()
    if gpu then t.skip 'only on the played device' end
    local code = [[
local add = dlv3.cuda_kernel("__global__ void add(float *y, float a) { y[threadIdx.x] += a; }", "add")
local fast = dlv3.compile(function(x) local y = x * 2 add(1, 4, y, 1) return y end)
for i = 1, 3 do print(fast(dlv3.full({4}, i, {device = "cuda"})):sum():item()) end]]
    local output = t.run(("DLV3_VERBOSE=1 DLV3_CUDA_LIBRARY='%s' '%s' -e '%s' 2>&1"):format(
        device.library, host.executable, code))
    -- the number 2 is filled in by a call
    t.ok(output:find 'compile: one graph %(3 calls%)' and output:find '12\n20\n28\n$', output)
  end)

  t.case('a kernel that waits: the capture fails, the calls go on', function()
    local output = apart 'CUDA_HOST_CUDNN_WAITS=1'
    t.ok(output:find '^true\t0\t0\tconv2d: .*the convolution failed', output)
    output = apart 'CUDA_HOST_CUDNN_WAITS=1 DLV3_VERBOSE=1'
    t.ok(output:find 'compile: no graph %(1 calls%): conv2d' and output:find 'true\t0\t0\t', output)
  end)
end
