-- test_cuda.lua - the device cuda:0, a GPU's or the one that the host plays (tests/cuda_host): the whole op suite on it, and
-- what is particular to devices.

local dlv3 = require 'dlv3'
local F = require 'dlv3.ffi'

-- Without a GPU, the library that runs the same kernels on the host is used. Returns why there is neither, or nil.
local function missing(t)
  local library = t.directory .. '/../build/cuda_host/libdlv3_cuda.so'
  if F.string(F.C.dlv3_build_info()):find('sanitizers', 1, true) then return "the address sanitizer can not follow the fibers of tests/cuda_host" end
  if #dlv3.devices() > 1 then return nil end
  if F.C.dlv3_path_kind(library) ~= 1 then return 'no GPU, and no build/cuda_host/libdlv3_cuda.so (make check builds it where a C++ compiler is)' end
  F.check(F.C.dlv3_cuda_library(library))
  return #dlv3.devices() == 1 and dlv3.devices().cuda or nil
end

return function(t)
  local why = missing(t)
  if why then
    t.case('a device cuda:0', function() t.skip(why) end)
    return
  end
  local harness = dofile(t.directory .. '/harness.lua')
  harness.run_device(t, {'conv', 'pool', 'norm', 'resample', 'loss', 'pointwise', 'reduce', 'shape', 'optim'}, 'cuda:0')
end
