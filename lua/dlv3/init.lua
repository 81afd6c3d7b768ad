-- init.lua - require 'dlv3': tensors, autograd, files, memory, devices. The rest is in dlv3.nn,
-- dlv3.optim, dlv3.data.

local F = require 'dlv3.core.ffi'
local call = require 'dlv3.core.call'
local tensor = require 'dlv3.core.tensor'
local autograd = require 'dlv3.core.autograd'
local compile = require 'dlv3.core.compile'
local C = F.C

local dlv3 = {version = F.string(C.dlv3_version()), ops = call.ops, dtypes = F.dtypes, is_tensor = F.is_tensor}

for _, name in ipairs {
  'tensor', 'zeros', 'ones', 'full', 'empty', 'rand', 'randn', 'randint', 'arange', 'eye', 'frombytes',
  'zeros_like', 'ones_like', 'rand_like', 'randn_like', 'empty_like', 'cat', 'stack', 'where',
  'manual_seed', 'get_rng_state', 'set_rng_state',
} do dlv3[name] = tensor[name] end

for _, name in ipairs {'no_grad', 'scope', 'Function'} do dlv3[name] = autograd[name] end
dlv3.compile = compile.compile

-- Parts that a small script does not need are loaded on first use.
local lazy = {
  load = {'dlv3.io.files', 'load'}, save = {'dlv3.io.files', 'save'}, items = {'dlv3.core.dict', 'items'},
  none = {'dlv3.core.dict', 'none'},
  cuda_kernel = {'dlv3.core.cuda_kernel', 'cuda_kernel'}, recompute = {'dlv3.core.recompute', 'recompute'},
  world = {'dlv3.core.world', 'world'}, barrier = {'dlv3.core.world', 'barrier'},
}
setmetatable(dlv3, {__index = function(t, key)
  local from = lazy[key]
  if not from then
    local names = {}
    for name in pairs(t) do names[#names + 1] = name end
    F.raise(("dlv3 has no '%s'%s (? in the REPL lists what there is)"):format(tostring(key),
        require 'dlv3.core.suggest'.text(tostring(key), names)))
  end
  local value = require(from[1])[from[2]]
  t[key] = value
  return value
end})

-- The devices there are: {'cpu', 'cuda:0', ...}; the field cuda says what they are, or what is
-- missing.
function dlv3.devices()
  local names = {cuda = F.string(C.dlv3_cuda_state())}
  for i = 0, C.dlv3_device_count() - 1 do names[i + 1] = F.string(C.dlv3_device_name(i)) end
  return names
end

-- Bytes of a device: {live =, peak =, reserved =}. reset = true starts the peak anew.
function dlv3.memory(device, options)
  if type(device) == 'table' then device, options = nil, device end
  local id = tensor.device_id(device)
  local m = {live = tonumber(C.dlv3_memory_live(id)), peak = tonumber(C.dlv3_memory_peak(id)),
             reserved = tonumber(C.dlv3_memory_reserved(id))}
  if options and options.reset then C.dlv3_memory_reset_peak(id) end
  return m
end

-- A ceiling for tensors on the cpu, in bytes; 0 takes it away. Past it, an op fails with a message.
function dlv3.memory_limit(bytes) C.dlv3_memory_limit(bytes) end

-- num_threads(n): sets the number of threads of ops on the cpu, at least 1; without n, returns it.
function dlv3.num_threads(n)
  if n then F.check(C.dlv3_set_num_threads(n)) end
  return C.dlv3_num_threads()
end

local function set_flag(name, on, set)
  if on == nil then return end
  if type(on) ~= 'boolean' then F.raise(('%s: expected true or false, got %s'):format(name, tostring(on))) end
  set(on and 1 or 0)
end

-- Whether convolutions of f32 on a GPU may round their inputs to TF32 (10 bits of fraction, sums in
-- f32), as PyTorch's do: true unless the environment has DLV3_TF32=0. allow_tf32(true or false)
-- changes it from the next call on.
function dlv3.allow_tf32(on)
  set_flag('allow_tf32', on, C.dlv3_allow_tf32)
  return C.dlv3_tf32_allowed() == 1
end

-- Whether cuDNN's engines are timed when a convolution is first met, and the fastest is taken, now
-- and in later runs: false unless the environment has DLV3_CUDNN_BENCHMARK=1. cudnn_benchmark(true
-- or false) changes it from the next call on.
function dlv3.cudnn_benchmark(on)
  set_flag('cudnn_benchmark', on, C.dlv3_set_cudnn_benchmark)
  return C.dlv3_cudnn_benchmark() == 1
end

-- Waits until a device has done what it was given; without a name, all that are in use. Errors of
-- that work come out here.
function dlv3.synchronize(device)
  if device then return F.check(C.dlv3_device_sync(tensor.device_id(device))) end
  for id = 1, C.dlv3_device_open_count() - 1 do F.check(C.dlv3_device_sync(id)) end
end

-- Seconds of a clock that only goes forward, for durations.
function dlv3.now() return C.dlv3_now() end

return dlv3
