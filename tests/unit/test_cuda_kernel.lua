-- test_cuda_kernel.lua - dlv3.cuda_kernel: kernels from source text on a GPU, or on the device that
-- the host plays, where its C++ compiler stands in for NVRTC (tests/cuda_host/nvrtc.cpp).

local dlv3 = require 'dlv3'

local source = [[
#include <stdint.h>
// out = x + a y
__global__ void __launch_bounds__(256) axpy(const float *__restrict__ x, const float *y, float *out, float a, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = x[i] + a * y[i];
}
template <class T> __global__ void scale(const T *x, T *y, T by, int64_t n) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * by;
}
__global__ void reverse(int *x) { /* a block's elements, by way of shared memory */
  extern __shared__ int buf[];
  buf[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = buf[blockDim.x - 1 - threadIdx.x];
}
__global__ void numbers(double *out, bool b, uint8_t u, int i, unsigned w, int64_t l, uint64_t m, float f, double d) {
  out[0] = b, out[1] = u, out[2] = i, out[3] = w, out[4] = (double)l, out[5] = (double)m, out[6] = f, out[7] = d;
}
__global__ void places(int *out) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}
]]

local function on_cuda(...) return dlv3.randn({...}, {device = 'cuda'}) end

-- x^3 with its gradient, both by kernels.
local function cube()
  local text = [[
__global__ void forward(const float *x, float *y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * x[i] * x[i];
}
__global__ void backward(const float *x, const float *grad_y, float *grad_x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) grad_x[i] = 3 * x[i] * x[i] * grad_y[i];
}]]
  local forward, backward = dlv3.cuda_kernel(text, 'forward'), dlv3.cuda_kernel(text, 'backward')
  return dlv3.Function {
    forward = function(ctx, x)
      local n, y = x:numel(), dlv3.empty_like(x)
      ctx.x = x
      forward(math.ceil(n / 64), 64, x, y, n)
      return y
    end,
    backward = function(ctx, grad_y)
      local n, grad_x = grad_y:numel(), dlv3.empty_like(grad_y)
      backward(math.ceil(n / 64), 64, ctx.x, grad_y:contiguous(), grad_x, n)
      return grad_x
    end,
  }
end

local function results(t)
  t.case('a vector sum, on a part of it, on nothing', function()
    local axpy = dlv3.cuda_kernel(source, 'axpy')
    local x, y, out = on_cuda(1000), on_cuda(1000), dlv3.zeros({1000}, {device = 'cuda'})
    axpy(3, 256, x, y, out, 2, 1000)
    t.close(out, x + y * 2, 1e-6, 1e-6)
    axpy(0, 256, x, y, out, 7, 0)
    axpy(1, 4, x, y, out, {'f32', 0}, {'i32', 2})
    t.eq(out[{{1, 2}}]:to 'cpu', x[{{1, 2}}]:to 'cpu')
    t.close(out[{{3, 1000}}], (x + y * 2)[{{3, 1000}}], 1e-6, 1e-6)
  end)

  t.case('a template, shared memory, blocks and grids in three dimensions', function()
    local scale = dlv3.cuda_kernel(source, 'scale<double>')
    local x = on_cuda(77):to 'f64'
    local y = dlv3.empty_like(x)
    scale(1, 128, x, y, {'f64', 0.5}, 77)
    t.eq(y:to 'cpu', (x * 0.5):to 'cpu')
    local r = dlv3.arange(0, 99):to('cuda', 'i32')
    dlv3.cuda_kernel(source, 'reverse')(1, 100, r, {shared = 400})
    t.eq(r:to 'cpu', (99 - dlv3.arange(0, 99)):to 'i32')
    local out = dlv3.full({144}, -1, {dtype = 'i32', device = 'cuda'})
    dlv3.cuda_kernel(source, 'places')({2, 3, 1}, {2, 3, 4}, out)
    local list = out:totable()
    for i = 0, 143 do t.eq(list[i + 1], 1000 * math.floor(i / 24) + i % 24) end
  end)

  t.case('numbers become what the parameters are', function()
    local numbers = dlv3.cuda_kernel(source, 'numbers')
    local out = dlv3.zeros({8}, {dtype = 'f64', device = 'cuda'})
    numbers(1, 1, out, true, 200, -5, 4294967295, -2 ^ 40, 2 ^ 63, 0.5, 0.1)
    t.eq(out:totable(), {1, 200, -5, 4294967295, -2 ^ 40, 2 ^ 63, 0.5, 0.1})
    numbers(1, 1, out, false, 0, 2147483647, 0, 5LL, 6ULL, {'f32', 3}, {'f64', 4})
    t.eq(out:totable(), {0, 0, 2147483647, 0, 5, 6, 3, 4})
  end)

  t.case('a differentiable op: gradient as that of tensor ops', function()
    local op = cube()
    local x, w = on_cuda(2, 3, 4, 5):requires_grad_(), on_cuda(2, 3, 4, 5)
    local y = op(x)
    t.close(y:detach(), (x * x * x):detach(), 1e-5, 1e-6)
    ;(y * w):sum():backward()
    local grad = x.grad:to 'cpu'
    x.grad = nil
    ;(x * x * x * w):sum():backward()
    t.close(grad, x.grad, 1e-5, 1e-6)
  end)

  t.case('what was saved and then written is noticed; what is only read is not', function()
    local axpy = dlv3.cuda_kernel(source, 'axpy')
    local w = on_cuda(8):requires_grad_()
    local h = w * 2
    local y = h:square()
    local other = on_cuda(8)
    dlv3.no_grad(axpy, 1, 8, h, h, other, 1, 8)
    y:sum():backward()
    t.close(w.grad, w:detach() * 8, 1e-6, 1e-6)
    h = w * 2
    y = h:square()
    axpy(1, 8, other, other, h:detach(), 1, 8)
    t.error(function() y:sum():backward() end, 'square.*changed')
  end)
end

-- Every ```lua block of the page runs as it stands.
local function page(t)
  local file = assert(io.open(t.directory .. '/../docs/cuda_kernels.md'))
  local text = file:read '*a'
  file:close()
  for block in text:gmatch '```lua\n(.-)```' do
    t.case('docs/cuda_kernels.md: ' .. block:match '^%-%- ([^\n]*)',
           function() assert(loadstring(block, '=docs/cuda_kernels.md'))() end)
  end
end

local function recorded(t)
  t.case('recorded by dlv3.compile: forward, and a whole step with the gradient', function()
    local axpy = dlv3.cuda_kernel(source, 'axpy')
    local kept = on_cuda(50)
    local function f(x)
      local out = dlv3.empty_like(x)
      axpy(1, 50, x, kept, out, 3, 50)
      return out:relu(), out
    end
    local compiled = dlv3.compile(f)
    for _ = 1, 3 do
      local x = on_cuda(50)
      local relu, out = compiled(x)
      t.close(out, x + kept * 3, 1e-6, 1e-6)
      t.eq(relu:to 'cpu', out:relu():to 'cpu')
      kept:fill_(x[1]:item())
    end
    local op, w = cube(), on_cuda(30):requires_grad_()
    w.grad = dlv3.zeros_like(w)
    local step = dlv3.compile(function(x)
      local loss = (op(w) * x):sum()
      w.grad:zero_()
      loss:backward()
      return loss:detach()
    end)
    for _ = 1, 3 do
      local x = on_cuda(30)
      local loss = step(x)
      local v = w:detach()
      t.close(loss, (v * v * v * x):sum(), 1e-4, 1e-5)
      t.close(w.grad, v * v * x * 3, 1e-5, 1e-6)
      dlv3.no_grad(function() w:mul_(0.9) end)
    end
  end)
end

local function errors(t)
  t.case('an error of the compiler shows the line of the source and of the call', function()
    local text = '__global__ void broken(float *x) {\n  x[0] = 1;\n  x[1] = not_there;\n}\n'
    local line = debug.getinfo(1, 'l').currentline + 1
    local message = t.error(function() dlv3.cuda_kernel(text, 'broken') end,
                            "source of 'broken' does not compile\n.*source%(3%): error:.*not_there")
    t.ok(message:find('test_cuda_kernel.lua:' .. line .. ': cuda_kernel: ', 1, true), message)
    local long = '__global__ void broken(float *x) {\n'
    for i = 1, 60 do long = ('%s  x[0] = not_there_%d;\n'):format(long, i) end
    long = long .. '}\n'
    message = t.error(function() dlv3.cuda_kernel(long, 'broken') end, 'source%(2%): error:.*\n%.%.%.$')
    t.ok(#message < 1600, message)
  end)

  t.case('a name that is not there, options and types that are not', function()
    t.error(function() dlv3.cuda_kernel(source, 'axpi') end,
            "no kernel 'axpi' in the source; did you mean 'axpy'%? %(has: axpy, scale, reverse, numbers, places%)")
    t.error(function() dlv3.cuda_kernel('int x;', 'f') end,
            "no kernel 'f' in the source %(has: no __global__ function%)")
    t.error(function() dlv3.cuda_kernel(source, 'axpy', {devise = 'cuda'}) end,
            "no option 'devise'; did you mean 'device'")
    t.error(function() dlv3.cuda_kernel(source) end, 'takes the source and the kernel')
    local axpy, scale, x = dlv3.cuda_kernel(source, 'axpy'), dlv3.cuda_kernel(source, 'scale<float>'), on_cuda(4)
    t.error(function() axpy(1, 4, x, x, x, 1) end,
            'axpy: it takes 5 arguments after grid and block %(const float %*__restrict__ x, .*, int n%), got 4')
    t.error(function() axpy(1, 4, x, x, x, 1, 4, {share = 1}) end, "no option 'share'; did you mean 'shared'")
    t.error(function() axpy(1, 4, x, x, x, 1, 4.5) end,
            'argument 5 %(int n%) must be a whole number from %-2147483648 to 2147483647, got 4.5')
    t.error(function() axpy(1, 4, x, x, x, {'f64', 1}, 4) end, "argument 4 %(float a%) is f32, got {'f64', 1}")
    t.error(function() axpy(1, 4, x, x, x, {'f23', 1}, 4) end, "no number is of type 'f23'; did you mean 'f32'")
    t.error(function() axpy(1, 4, x, 2, x, 1, 4) end, 'argument 2 %(const float %*y%) must be a tensor')
    t.error(function() axpy(1, 4, x, x, x, x, 4) end, 'argument 4 %(float a%) must be a number')
    t.error(function() axpy(1, 4, x, nil, x, 1, 4) end, 'argument 2 %(const float %*y%) is nil')
    t.error(function() axpy(1, 4, x, x:to 'bf16', x, 1, 4) end,
            'argument 2 %(const float %*y%) points to f32, the tensor is bf16')
    t.error(function() scale(1, 4, x, x, 2, 4) end,
            "argument 3 %(T by%): its type is none that dlv3 knows; write the number with one, as in {'f32', 0.5}")
    t.error(function() scale(1, 4, x, x, {'f64', 2}, 4) end, 'argument 3 is of 4 bytes, 8 came')
  end)

  t.case('grids and blocks that no device has', function()
    local axpy, x = dlv3.cuda_kernel(source, 'axpy'), on_cuda(4)
    t.error(function() axpy(1, 2048, x, x, x, 1, 4) end, 'axpy: the block of 2048 x 1 x 1 threads is too large')
    t.error(function() axpy(1, {1, 1, 65}, x, x, x, 1, 4) end,
            'the block of 1 x 1 x 65 threads is too large.*64 along z')
    t.error(function() axpy({1, 65536}, 1, x, x, x, 1, 4) end, 'the grid of 1 x 65536 x 1 blocks is too large')
    t.error(function() axpy(1, 0, x, x, x, 1, 4) end, 'block: expected a whole number from 1, got 0')
    t.error(function() axpy('1', 1, x, x, x, 1, 4) end, 'grid is a number or {x, y, z}')
    t.error(function() axpy(1, 4, x, x, x, 1, 4, {shared = 2 ^ 22}) end, 'no 4194304 bytes of shared memory')
  end)

  t.case('tensors elsewhere, released, strided, that want a gradient', function()
    local axpy, x, here = dlv3.cuda_kernel(source, 'axpy'), on_cuda(4), dlv3.randn {4}
    t.error(function() axpy(1, 4, x, here, x, 1, 4) end,
            'axpy: argument 2 is on cpu, the kernel runs on cuda:0.*2: %[4%] f32 cpu')
    t.error(function() axpy(1, 4, here, here, here, 1, 4) end, "'axpy' is CUDA C and runs on a cuda device, not on cpu")
    if #dlv3.devices() > 2 then
      local there = dlv3.randn({4}, {device = 'cuda:1'})
      t.error(function() axpy(1, 4, x, there, x, 1, 4) end, 'argument 2 is on cuda:1, the kernel runs on cuda:0')
      local out = dlv3.empty_like(there)
      axpy(1, 4, there, there, out, 1, 4)
      t.eq(out:to 'cpu', (there * 2):to 'cpu')
    end
    local gone = on_cuda(4)
    gone:release()
    t.error(function() axpy(1, 4, x, gone, x, 1, 4) end, 'axpy: argument 2 was released')
    t.error(function() axpy(1, 4, x, on_cuda(4, 2):select(2, 1), x, 1, 4) end,
            'argument 2 is a strided view.*x:contiguous')
    t.error(function() axpy(1, 4, x:clone():requires_grad_(), x, x, 1, 4) end,
            'argument 1 requires grad, and the kernel has no gradient; call it in a dlv3.Function')
  end)
end

return function(t)
  t.case('parameters are read from the source', function()
    local _, found = require 'dlv3.core.cuda_kernel'.kernels_of [[
      __global__ void a(const float *x, float const *const y, double z[], const unsigned char *, unsigned n, long long,
                        void *p, f<int, 2> q) {}
      // __global__ void b(int n) {}
      extern "C" __global__ void c(void) {}]]
    local texts = {}
    for i, p in ipairs(found.a) do
      texts[i] = (p.pointer and (p.const and 'reads ' or 'writes ') or '') .. (p.type and p.type[1] or '?')
    end
    t.eq(texts, {'reads f32', 'reads f32', 'writes f64', 'reads u8', 'i32', 'i64', 'writes ?', '?'})
    t.eq({found.b == nil, #found.c}, {true, 0})
  end)
  local gpu = dofile(t.directory .. '/gpu.lua')(t)
  local why = gpu.missing()
  if why then
    t.case('kernels from source text', function() t.skip(why) end)
    return
  end
  results(t)
  page(t)
  recorded(t)
  errors(t)
  if not gpu.library_exists then return end
  t.case('without NVRTC the rest of cuda works', function()
    local code = 'dlv3 = require "dlv3" print(dlv3.ones({2}, {device = "cuda"}):sum():item()) '
                 .. 'dlv3.cuda_kernel("__global__ void f() {}", "f")'
    local output, status = t.run(("DLV3_CUDA_LIBRARY='%s' CUDA_HOST_NVRTC=none '%s' -e '%s'"):format(
        gpu.library, require 'dlv3.host'.executable, code))
    t.ok(status == 1 and output:find '2\n.*NVRTC is missing: neither libnvrtc.so.13 nor libnvrtc.so.12 can be opened',
         output)
  end)
end
