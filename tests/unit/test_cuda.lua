-- test_cuda.lua - the device cuda:0, a GPU's or the one that the host plays (tests/cuda_host): the
-- whole op suite on it, and what is particular to devices.

local dlv3 = require 'dlv3'

-- Two steps of MobileNetV3 at 32 x 32, dropout included: the losses, the last parameter, and the
-- loss scale of f16.
local function train(training_step, device, dtype, compiled)
  local optim, models = require 'dlv3.optim', require 'models'
  dlv3.manual_seed(5)
  local model = models.deeplabv3_mobilenet_v3_large{num_classes = 5, aux = true}
  local x, target = dlv3.randn{2, 3, 32, 32}, dlv3.randint(0, 5, {2, 32, 32}, {dtype = 'u8'})
  model:to(device):train()
  local opt = optim.SGD({{params = model:parameters()}}, {lr = 0.01, momentum = 0.9, weight_decay = 1e-4})
  local scaler = dtype == 'f16' and optim.LossScaler{init = 1024, interval = 2, device = device}
  local train_step = training_step(model, opt, true, scaler)
  if compiled then train_step = dlv3.compile(train_step) end
  local losses = {}
  for step = 1, 2 do
    dlv3.scope(function()
      dlv3.manual_seed(step)
      losses[step] = train_step(x:to(device, dtype), target:to(device)):item()
    end)
  end
  local parameters = model:parameters()
  return losses, parameters[#parameters]:detach():to('cpu'):totable(), scaler and scaler:get_scale()
end

local function devices(t, gpu, library_played)
  local training_step = dofile(t.directory .. '/training.lua')

  t.case('a number that is read later: what was queued before it counts, and nothing after; errors come with it',
         function()
    for _, device in ipairs {'cpu', 'cuda'} do
      for _, dtype in ipairs {'f32', 'bf16', 'i64', 'u8'} do
        local x = dlv3.tensor({1, 2, 3}, {dtype = dtype}):to(device)
        local later = x:narrow(1, 2, 1):item_later()
        x:fill_(9)
        t.eq({later(), later()}, {2, 2}, device .. ' ' .. dtype)
      end
      t.error(function() dlv3.ones({2}, {device = device}):item_later() end,
              'item_later: the tensor must have one element, it has 2')
      dlv3.ones({1}, {device = device}):item_later()
    end
    collectgarbage() -- the ones that nobody asked for
    local bad = dlv3.randn({1, 3, 2, 2}, {device = 'cuda'}):cross_entropy(dlv3.full({1, 2, 2}, 7,
        {dtype = 'u8', device = 'cuda'})):item_later()
    t.error(bad, 'target has the label 7')
    t.ok(bad() ~= bad())
  end)
  t.case('tensors go there and back, of every dtype, strided, empty', function()
    for _, dtype in ipairs(dlv3.dtypes) do
      local x = dlv3.randint(0, 2, {2, 3, 5, 4}):to(dtype)
      t.eq(x:to('cuda'):to('cpu'), x, dtype)
      t.eq(x:permute{1, 3, 4, 2}:to('cuda'):to('cpu'), x:permute{1, 3, 4, 2}:contiguous(), dtype .. ' strided')
    end
    local x = dlv3.arange(0, 5):reshape(2, 3):to('cuda:0')
    t.eq({x.device, x[{2, 1}]:item(), x:totable()[2][3], tostring(x):match('cuda:0') ~= nil}, {'cuda:0', 3, 5, true})
    t.eq(dlv3.tensor({{1, 2}}, {device = 'cuda'}):to('cpu'), dlv3.tensor {{1, 2}})
    t.eq(dlv3.zeros({0, 3}, {device = 'cuda'}):to('cpu'):size(), {0, 3})
    x[{1, 1}] = 7
    t.eq(x:sum():item(), 22)
  end)

  t.case('files are written from a device and read to one', function()
    local path = t.folder() .. '/x.pth'
    local x = dlv3.randn({2, 3, 4, 5}, {device = 'cuda'})
    dlv3.save(path, {x = x})
    t.eq(dlv3.load(path).x:to('cpu'), x:to('cpu'))
  end)

  t.case('random numbers are the same on every device', function()
    local function draw(device)
      dlv3.manual_seed(9)
      local x = dlv3.rand({5, 7}, {device = device})
      return x:to('cpu'), dlv3.ones({4, 9}, {device = device}):dropout(0.4):to('cpu'),
          dlv3.randint(0, 9, {5}, {device = device}):to('cpu'), dlv3.get_rng_state()
    end
    local a, b = {draw 'cpu'}, {draw 'cuda'}
    for i = 1, 4 do t.eq(b[i], a[i]) end
  end)

  t.case('tensors on two devices are named, a device that is not there too', function()
    t.error(function() return dlv3.zeros({2}, {device = 'cuda'}) + dlv3.zeros {2} end,
            'expected all tensors on one device.*a %[2%] f32 cuda:0   b %[2%] f32 cpu')
    t.error(function() return dlv3.zeros({2}, {device = 'cuda:99'}) end, "device 'cuda:99' does not exist: there")
    t.error(function() return dlv3.zeros({2}, {device = 'cuda:x'}) end, "no device is called 'cuda:x'")
  end)

  t.case('a wrong label is found on the device, said at the next wait, and said once', function()
    local x, target = dlv3.randn({2, 5, 3, 4}, {device = 'cuda'}), dlv3.zeros({2, 3, 4},
        {dtype = 'u8', device = 'cuda'})
    target[{2, 3, 1}] = 9
    local loss = x:cross_entropy(target)
    t.error(function() return loss:item() end, 'cross_entropy: target has the label 9 at n 2, y 3, x 1 %(counted '
                                               .. 'from 1%); labels must be 0 to 4, or 255')
    target[{2, 3, 1}] = 1
    t.ok(x:cross_entropy(target):item() > 0)
  end)

  t.case('a scope frees what was made in it', function()
    dlv3.randn({2}, {device = 'cuda'}) -- the generator is there
    collectgarbage() collectgarbage()
    local before = dlv3.memory('cuda').live
    dlv3.scope(function() for _ = 1, 5 do dlv3.randn({100, 100}, {device = 'cuda'}):relu() end end)
    t.eq(dlv3.memory('cuda').live, before)
  end)

  t.case('a loss scale there: growth, and a step that is left out', function()
    local optim = require 'dlv3.optim'
    local p = require 'dlv3.nn'.Parameter(dlv3.tensor({1, -2}, {device = 'cuda'}))
    local sgd, scaler = optim.SGD({p}, {lr = 0.25, momentum = 0.5}), optim.LossScaler{init = 64, interval = 2,
        device = 'cuda'}
    local step = dlv3.compile(function(x)
      sgd:zero_grad()
      scaler:scale((p * x):sum()):backward()
      scaler:step(sgd)
    end)
    local want = {{0.75, -2.25, 64}, {0.75, -2.25, 32}, {0.375, -2.875, 32}, {0.75, -2.25, 32}}
    want[4] = {0.375 - 0.25 * (1 + 0.5 * 1.5), -2.875 - 0.25 * (2 + 0.5 * 2.5), 64}
    for i, x in ipairs {{1, 1}, {1, math.huge}, {1, 2}, {1, 2}} do
      step(dlv3.tensor(x, {device = 'cuda'}))
      t.eq({p[1]:item(), p[2]:item(), scaler:get_scale()}, want[i], 'step ' .. i)
    end
    t.error(function() optim.LossScaler():scale(p:sum()) end,
            "the loss is on cuda:0, the scale on cpu: make it with optim.LossScaler{device = 'cuda:0'}")
  end)

  t.case('maps that do not lie on boundaries of 16 bytes', function()
    for _, dtype in ipairs {'f32', 'bf16', 'f64'} do
      local w = dlv3.randn({16, 1, 3, 3}):to(dtype == 'f64' and 'f64' or 'f32')
      local flat, half = dlv3.randn({33}):to(dtype), dlv3.randn({33}):to(dtype)
      local taken = dlv3.randint(3, 6, {33}, {dtype = 'u8'})
      local function results(device)
        local x, g = flat:to(device):narrow(1, 2, 32):reshape(2, 16, 1, 1),
            half:to(device):narrow(1, 2, 32):reshape(2, 16, 1, 1)
        local conv, pool, grad_w = {padding = 1, groups = 16, size = 1}, {kernel_size = 3, stride = 2, padding = 1,
            size = 1}, dlv3.zeros_like(w):to(device)
        local index = taken:to(device):narrow(1, 2, 32):reshape(2, 16, 1, 1)
        x:conv2d_backward_weight(g, grad_w, nil, {padding = 1, groups = 16})
        local got = {x:max_pool2d {kernel_size = 3, stride = 2, padding = 1}, g:max_pool2d_backward(index, pool),
                     x:adaptive_avg_pool2d {size = 1}, g:adaptive_avg_pool2d_backward {size = 1},
                     x:conv2d(w:to(device), nil, {padding = 1, groups = 16}),
                     g:conv2d_backward_input(w:to(device), conv), grad_w}
        for i = 1, #got do got[i] = got[i]:to('cpu', 'f64') end
        return got
      end
      local got, want = results 'cuda', results 'cpu'
      for i = 1, #want do t.close(got[i], want[i], 1e-2, 1e-2, dtype .. ' ' .. i) end
    end
  end)

  t.case('TF32: inputs are rounded where it is allowed, f32 convolutions only, also when recorded', function()
    local x, w = dlv3.randn({1, 8, 5, 5}, {device = 'cuda'}), dlv3.randn({8, 8, 3, 3}, {device = 'cuda'})
    local exact = x:to('cpu', 'f64'):conv2d(w:to('cpu', 'f64'))
    local fast = dlv3.compile(function(v) return v:conv2d(w) end)
    local function off(y) return (y:to('cpu', 'f64') - exact):abs():max():item() end
    for _, run in ipairs {function() return x:conv2d(w) end, function() return fast(x) end} do
      for _ = 1, 2 do
        t.eq({dlv3.allow_tf32(true), dlv3.allow_tf32()}, {true, true})
        local rounded = off(run())
        t.eq({dlv3.allow_tf32(false), dlv3.allow_tf32()}, {false, false})
        t.ok(off(run()) < 1e-4)
        if library_played then t.ok(rounded > 1e-3 and rounded < 5e-2, 'off by ' .. rounded) end
      end
    end
    t.error(function() dlv3.allow_tf32(1) end, 'allow_tf32: expected true or false, got 1')
    local benchmark = dlv3.cudnn_benchmark()
    t.eq({dlv3.cudnn_benchmark(true), dlv3.cudnn_benchmark(), dlv3.cudnn_benchmark(false), dlv3.cudnn_benchmark()},
         {true, true, false, false})
    dlv3.cudnn_benchmark(benchmark)
    t.error(function() dlv3.cudnn_benchmark 'on' end, 'cudnn_benchmark: expected true or false, got on')
  end)

  t.case('--own-kernels: of no library', function()
    if gpu.sanitized or not library_played then t.skip 'the host plays no GPU, or slowly' end
    local command = "DLV3_VERBOSE=1 DLV3_CUDA_LIBRARY='%s' '%s' '%s/run.lua' --file cuda --own-kernels"
    local output, status = t.run(command:format(
      gpu.library, require 'dlv3.host'.executable, t.directory))
    t.eq(status, 0)
    for impl, wanted in pairs {atrous = true, depthwise = true, direct = true, cudnn = false, cublaslt = false} do
      t.eq(output:find('\nconv2d cuda:0 ' .. impl .. ' ', 1, true) ~= nil, wanted, impl)
    end
  end)

  if gpu.sanitized then return end -- fibers are slow then; the op suite says what there is to say
  t.case('MobileNetV3 trains there as on the cpu, and twice the same', function()
    local want = train(training_step, 'cpu', 'f32')
    local first, weight = train(training_step, 'cuda', 'f32')
    local again, same = train(training_step, 'cuda', 'f32')
    t.close(first, want, 2e-3)
    t.eq({again, same}, {first, weight})
    t.close(train(training_step, 'cuda', 'bf16'), want, 3e-2)
    t.eq({train(training_step, 'cuda', 'f32', true)}, {first, weight, false}, 'compiled')
    local half = {train(training_step, 'cuda', 'f16')}
    t.close(half[1], want, 1e-2)
    t.eq(half[3], 2048)
    t.eq({train(training_step, 'cuda', 'f16', true)}, half, 'compiled in f16')
  end)

  t.case('views that do not begin on a boundary of 16 bytes', function()
    for _, dtype in ipairs {'f32', 'bf16', 'f16', 'f64'} do
      local function results(device, first)
        dlv3.manual_seed(4)
        local list = {}
        local function view()
          local flat = dlv3.randn({56}, {device = device}):to(dtype)
          list[#list + 1] = flat:requires_grad_()
          return flat:narrow(1, first, 48):reshape(6, 8)
        end
        local x, residual = view(), view()
        local y = x:batch_norm(nil, nil, nil, nil, residual, {training = true, activation = 'hardswish'})
        local both = (y + x:relu() * view()):sum()
        both:backward()
        return both:item(), list[1].grad:to('cpu', 'f64'), list[2].grad:to('cpu', 'f64'), list[3].grad:to('cpu', 'f64')
      end
      local tolerance = ({f32 = 1e-4, f64 = 1e-10})[dtype] or 4e-2
      for first = 1, 3 do
        local want, got = {results('cpu', first)}, {results('cuda', first)}
        for i = 1, 4 do
          t.close(got[i], want[i], tolerance, tolerance, dtype .. ' from ' .. first .. ', result ' .. i)
        end
      end
    end
  end)

  t.case('a gradient follows a tensor to another device and back', function()
    local x = dlv3.tensor {1, 2, 3}:requires_grad_()
    local y = (x:to('cuda') * 2):square():to('cpu')
    y:sum():backward()
    t.eq(x.grad, dlv3.tensor {8, 16, 24})
  end)
end

-- What the host can only play: other machines. fails: an error of cudaGetDeviceCount.
local function other_machines(t, library)
  local function dlv3_with(environment, code)
    return t.run(("DLV3_CUDA_LIBRARY='%s' %s '%s' -e '%s'"):format(
        library, environment, require 'dlv3.host'.executable, code))
  end
  t.case('no driver, an old one, no GPU, no library: each in its own words', function()
    for _, case in ipairs {{'CUDA_HOST_FAILS=35', 'no NVIDIA driver'},
                           {'CUDA_HOST_FAILS=35 CUDA_HOST_DRIVER=11080', 'for CUDA 11.8 and too old'},
                           {'CUDA_HOST_FAILS=100', 'finds no NVIDIA GPU'},
                               {'DLV3_CUDA_LIBRARY=/nowhere.so', 'nowhere.so can not be opened'}} do
      local output, status = dlv3_with(case[1], 'require("dlv3").zeros({2}, {device = "cuda"})')
      t.ok(status == 1 and output:find("device 'cuda' is not available: .*" .. case[2]), output)
      t.ok(dlv3_with(case[1], 'print(require("dlv3").devices().cuda)'):find(case[2]))
      t.eq(dlv3_with(case[1], 'print(require("dlv3").zeros({2}, {device = "auto"}).device)'), 'cpu\n')
    end
  end)
  t.case('out of memory names the largest tensors', function()
    local code = 'dlv3 = require "dlv3" local kept = dlv3.zeros({5 * 2^18}, {device = "cuda"}) dlv3.zeros({5 * '
                 .. '2^18}, {device = "cuda"})'
    local output, status = dlv3_with('CUDA_HOST_MEMORY=8', code)
    t.ok(status == 1 and output:find('out of memory on cuda:0: 5.0 MiB asked for.*largest live tensors: 5.0 MiB.*a '
                                     .. 'smaller batch'), output)
  end)
end

-- Which of cuDNN's engines are taken, in processes of their own. The played ones
-- (tests/cuda_host/cudnn.cpp) take 1 ms (not deterministic, so never allowed), 3 (TF32), 4 (exact,
-- the first that is allowed for f32), 2 (exact too) by the clock of events; a fifth refuses to run.
-- In 16 bits the third is named before the second. A choice by timing runs each allowed one 6
-- times.
local function cudnn_engines(t, library)
  local program = t.folder() .. '/convolve.lua'
  local f = io.open(program, 'w')
  f:write [[
    local dlv3, F = require 'dlv3', require 'dlv3.core.ffi'
    F.cdef 'int64_t cuda_host_cudnn_runs(int i);'
    local played = F.load(os.getenv 'DLV3_CUDA_LIBRARY')
    local mode, channels = arg[1], tonumber(arg[2] or 8)
    dlv3.allow_tf32(false)
    if mode == 'lua' then dlv3.cudnn_benchmark(true) end
    local x, w = dlv3.full({1, 8, 5, 5}, 2, {device = 'cuda'}), dlv3.ones({channels, 8, 3, 3}, {device = 'cuda'})
    local live = dlv3.memory('cuda').live
    for _ = 1, 2 do
      if mode == 'train' then
        local v = x:to 'bf16':requires_grad_()
        v:conv2d(w:clone():requires_grad_()):sum():backward()
        assert(v.grad:to('cpu', 'f32'):max():item() == 9 * channels)
      else dlv3.scope(function() assert(x:conv2d(w):to('cpu'):eq(144):all():item()) end) end
    end
    if mode ~= 'train' then
      assert(dlv3.memory('cuda').live == live and x:eq(2):all():item() and w:eq(1):all():item())
    end
    local runs = {}
    for i = 0, 3 do runs[#runs + 1] = tostring(tonumber(played.cuda_host_cudnn_runs(i))) end
    print(table.concat(runs, ' '))
  ]]
  f:close()
  local function command(environment, arguments)
    return ("env -u DLV3_CACHE -u XDG_CACHE_HOME -u DLV3_NONDETERMINISTIC -u DLV3_CUDNN_BENCHMARK "
            .. "DLV3_CUDA_LIBRARY='%s' %s '%s' '%s' %s"):format(
      library, environment, require 'dlv3.host'.executable, program, arguments or '')
  end
  local function runs(environment, arguments)
    local output, status = t.run(command(environment, arguments))
    t.eq(status, 0, output)
    return output:gsub('\n', '')
  end
  local function read(path)
    local file = io.open(path)
    local text = file and file:read '*a'
    if file then file:close() end
    return text
  end
  local function write(path, text)
    local file = io.open(path, 'w')
    file:write(text)
    file:close()
  end
  local first, fastest, timed = '0 0 2 0', '0 0 0 2', '0 0 6 8'
  local function on(folder) return "DLV3_CUDNN_BENCHMARK=1 DLV3_CACHE='" .. folder .. "'" end

  t.case('cuDNN: the first engine of the heuristics where timing is not asked for, and no file', function()
    local folder = t.folder()
    local path = folder .. '/cudnn_engines.txt'
    t.eq(runs("DLV3_CACHE='" .. folder .. "'"), first)
    t.eq(runs("DLV3_CUDNN_BENCHMARK=0 DLV3_CACHE='" .. folder .. "'"), first)
    t.eq(read(path), nil)
    runs(on(folder))
    t.eq(runs("DLV3_CACHE='" .. folder .. "'"), first, 'a file is not looked at')
  end)

  t.case('cuDNN: the fastest by timing, from a file in later runs, timed anew where the file has another engine',
         function()
    local folder = t.folder() .. '/made/for it'
    local path = folder .. '/cudnn_engines.txt'
    t.eq(runs(on(folder)), timed)
    local text = read(path)
    local key, value = text:match '^#[^\n]*\n([^\n\t]+)\t([^\n\t]+)\n$'
    t.eq(value, 'A 3 engine 43', text)
    for _, word in ipairs {'the host, playing a GPU sm_', 'cudnn 90000: forward f32, nhwc',
                           'n 1, c 8, h 5, w 5, k 8, r 3, s 3'} do
      t.ok(key:find(word, 1, true), key)
    end
    t.eq(runs(on(folder)), fastest)
    t.eq(runs("DLV3_CACHE='" .. folder .. "'", 'lua'), fastest)
    t.eq(read(path), text)
    write(path, (text:gsub('A 3', 'A 2'):gsub('43\n', '42\n')))
    t.eq(runs(on(folder)), first, 'what the file says is taken')
    write(path, (text:gsub('43\n', '42\n')))
    t.eq(runs(on(folder)), timed, 'another engine at that place')
    t.eq(read(path), text)
    t.run(command(on(folder) .. ' DLV3_NONDETERMINISTIC=1')) -- takes the first, whose results are wrong
    t.ok(read(path):find(', any order, [^\t]*\tA 0 engine 40\n'), read(path))
    t.eq(runs(on(folder)), fastest, 'not for those who ask for one order')
  end)

  t.case('cuDNN: all passes, in bf16', function()
    local folder = t.folder()
    t.eq(runs('DLV3_CUDNN_BENCHMARK=0', 'train'), '0 6 0 0', 'one on tensor cores, though it is not the first')
    t.eq(runs(on(folder), 'train'), '0 18 18 24') -- for bf16 the one that rounds f32 is as good as others
    t.eq(runs(on(folder), 'train'), '0 0 0 6')
    local text = read(folder .. '/cudnn_engines.txt')
    for _, words in ipairs {'forward bf16', 'backward input bf16', 'backward weight bf16'} do
      t.ok(text:find(words, 1, true), text)
    end
  end)

  t.case('cuDNN: more sizes than it has room for plans of; what a graph holds stays', function()
    local w = dlv3.randn({8, 8, 1, 1}, {device = 'cuda'})
    local fast = dlv3.compile(function(v) return v:conv2d(w) end)
    local x = dlv3.randn({1, 8, 1, 40}, {device = 'cuda'})
    local want = x:conv2d(w):to('cpu')
    for width = 1, 1100 do
      dlv3.scope(function()
        local y = x:narrow(4, 1, 1 + width % 40):expand{1 + math.floor(width / 40), -1, -1, -1}:contiguous():conv2d(w)
        if width % 100 == 0 then
          t.eq(y[1]:to('cpu'), want[1]:narrow(3, 1, 1 + width % 40):contiguous())
          t.eq(fast(x):to('cpu'), want)
        end
      end)
    end
  end)

  t.case('cuDNN: a file of choices that is damaged or of something else is no harm, one that can not be written '
         .. 'neither', function()
    local folder = t.folder()
    local path = folder .. '/cudnn_engines.txt'
    runs(on(folder))
    local text = read(path)
    local key = text:match '\n([^\t]+)\t'
    local other = 'another GPU\tF 1 engine 7\n'
    for _, damaged in ipairs {'', '\n\t\n\t\t\n', '\1\2\255\0' .. text, text:sub(1, -2), key .. '\n',
                              key .. ' A 3 engine 43\n', key .. '\tA 3 engine 43 \n', key .. '\tA 3\n',
                              key .. '\tX 3 engine 43\n', key .. '\tA 99 engine 43\n', key .. '\tA -1 engine 43\n',
                              key .. '\tA 99999999999999999999 engine 43\n',
                              key .. '\tA 0 engine 40\n', key .. '\t' .. ('A'):rep(5000) .. '\n',
                                  ('x'):rep(5 * 2^20)} do
      write(path, other .. damaged)
      t.eq(runs(on(folder)), timed, damaged:sub(1, 300))
      local now = read(path)
      t.ok(now:find(key .. '\tA 3 engine 43\n', 1, true) and #now < 10000, now:sub(1, 300))
      if #damaged < 2^20 then t.ok(now:find('\n' .. other, 1, true), 'the choice of another stays') end
    end
    t.eq(runs(on '/dev/null/nowhere'), timed)
    t.eq(runs('DLV3_CUDNN_BENCHMARK=1 HOME='), timed)
    os.remove(path)
    t.run("mkdir '" .. path .. "'")
    t.eq(runs(on(folder)), timed)
  end)

  t.case('cuDNN: where the file of choices is; several processes add to it; nothing is timed while a stream is '
         .. 'captured', function()
    local folder = t.folder()
    t.eq(runs("DLV3_CUDNN_BENCHMARK=1 HOME='" .. folder .. "'"), timed)
    t.eq(runs("DLV3_CUDNN_BENCHMARK=1 XDG_CACHE_HOME='" .. folder .. "/.cache' HOME=/nowhere"), fastest)
    t.eq(runs("DLV3_CUDNN_BENCHMARK=1 XDG_CACHE_HOME=not/absolute HOME='" .. folder .. "'"), fastest)
    local shared = t.folder()
    t.run(table.concat({command(on(shared), 'env 8'), command(on(shared), 'env 16'), command(on(shared), 'env 24'),
                        'wait'}, ' & '))
    for _, channels in ipairs {8, 16, 24} do
      t.eq(runs(on(shared), 'env ' .. channels), fastest, channels .. ' channels')
    end
    local none = t.folder()
    t.eq(runs('CUDA_HOST_CAPTURES=1 ' .. on(none)), first)
    t.eq(read(none .. '/cudnn_engines.txt'), nil)
    t.eq(runs('CUDA_HOST_CAPTURES=1 ' .. on(shared)), fastest)
  end)
end

return function(t)
  local gpu = dofile(t.directory .. '/gpu.lua')(t)
  local why = gpu.missing()
  if why then
    t.case('a device cuda:0', function() t.skip(why) end)
    return
  end
  if t.own_kernels then
    return dofile(t.directory .. '/harness.lua').run_own_kernels(t, {'conv', 'norm', 'loss', 'pool', 'reduce'},
        'cuda:0')
  end
  local tf32 = dlv3.allow_tf32()
  dlv3.allow_tf32(false) -- results are compared to the digits of f32
  devices(t, gpu, dlv3.devices().cuda:find 'playing' ~= nil)
  if gpu.library_exists then
    other_machines(t, gpu.library)
    cudnn_engines(t, gpu.library)
  end
  local harness = dofile(t.directory .. '/harness.lua')
  local families = {'pool', 'norm', 'resample', 'loss', 'pointwise', 'reduce', 'shape', 'optim', 'collective',
                    not gpu.sanitized and 'conv' or nil}
  harness.run_device(t, families, 'cuda:0')
  dlv3.allow_tf32(tf32)
end
