-- gpu.lua - what tests of the device cuda:0 share; loaded by dofile(t.directory .. '/gpu.lua'),
-- called with t.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'

return function(t)
  local gpu = {sanitized = runtime.is_sanitized()}

  -- The library of this build that plays a GPU on the host (tests/cuda_host), with sanitizers or
  -- without.
  gpu.library = t.directory .. (gpu.sanitized and '/../build/san/cuda_host/libdlv3_cuda.so'
                                or '/../build/cuda_host/libdlv3_cuda.so')
  gpu.library_exists = system.is_file(gpu.library)

  -- Without a GPU that library is used. Returns why there is neither, or nil.
  function gpu.missing()
    if #dlv3.devices() > 1 then return nil end
    if not gpu.library_exists then
      return 'no GPU, and no library that plays one (make check builds it where a C++ compiler is)'
    end
    runtime.set_cuda_library(gpu.library)
    return #dlv3.devices() == 1 and dlv3.devices().cuda or nil
  end
  return gpu
end
