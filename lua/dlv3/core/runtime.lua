-- runtime.lua - what the runtime reports of itself and how it is steered, for tests, benchmarks and
-- tools. Ops are entries of dlv3.ops or their numbers.

local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'
local C, check = F.C, F.check

local M = {}

local function id_of(op) return type(op) == 'table' and op.id or op end

local function words_of(text)
  local list = {}
  for word in text:gmatch '%S+' do list[#list + 1] = word end
  return list
end

-- -- Ops ------------------------------------------------------------------------------------------

-- The names of an op's implementations on a device ('cpu', or its number), best first.
function M.implementations(op, device)
  local id = type(device) == 'number' and device or tensor.device_id(device)
  return words_of(F.string(C.dlv3_op_impls(id_of(op), id)))
end

-- Ops use the implementation of this name alone, where they have it; '' lets them choose again
-- (DLV3_IMPL).
function M.set_implementation(name) check(C.dlv3_set_impl(name)) end

-- Ops choose their implementations again, and the tape is on, as at the start: after a test that
-- failed half-way.
function M.reset()
  M.set_implementation ''
  C.dlv3_set_grad_enabled(1)
end

-- The implementation that the last call of an op ran.
function M.chosen(op) return F.string(C.dlv3_op_chosen(id_of(op))) end

-- The number of cuDNN's engine that the last call of an op ran; -1: none.
function M.engine(op) return tonumber(C.dlv3_op_engine(id_of(op))) end

-- -- Memory ---------------------------------------------------------------------------------------

-- Where a tensor's first element is: a number of bytes.
function M.address(t) return tonumber(C.dlv3_tensor_address(F.ptr(t))) end

-- Moves t's elements into arena, a flat tensor, from element offset (from 0) on; t shares its
-- memory then.
function M.rebase(t, arena, offset) check(C.dlv3_tensor_rebase(F.ptr(t), F.ptr(arena), offset)) end

-- Writes the bytes of a string over the elements of t, in row-major order.
function M.set_bytes(t, bytes) check(C.dlv3_tensor_from_bytes(F.ptr(t), bytes, #bytes)) end

-- The elements of t, in row-major order, as a C array of doubles, which begins at 0; for tensors
-- too large for totable.
function M.doubles(t)
  local out = F.new('double[?]', math.max(t:numel(), 1))
  check(C.dlv3_tensor_to_f64(out, F.ptr(t)))
  return out
end

-- Sets the elements of t from a C array of doubles.
function M.set_doubles(t, values) check(C.dlv3_tensor_from_f64(F.ptr(t), values)) end

-- The bytes of all live tensors, over all devices in use.
function M.live_bytes()
  local bytes = 0
  for id = 0, M.open_devices() - 1 do bytes = bytes + tonumber(C.dlv3_memory_live(id)) end
  return bytes
end

-- Gives back the memory that a device ('cpu', or its number) has cached; checks what lies around
-- each block where the runtime was built with red zones.
function M.flush(device)
  C.dlv3_memory_flush(type(device) == 'number' and device or tensor.device_id(device))
end

-- -- Graphs, devices, the build -------------------------------------------------------------------

-- CUDA graphs so far: {captures =, launches =, refused = why the last recorded step was not
-- captured, or ''}.
function M.graphs()
  return {
    captures = tonumber(C.dlv3_graph_captures()), launches = tonumber(C.dlv3_graph_launches()),
    refused = F.string(C.dlv3_graph_refused()),
  }
end

-- The number of devices in use; their numbers are 0 (the cpu), 1, ...
function M.open_devices() return C.dlv3_device_open_count() end

-- Loads the CUDA library at path in place of the one beside the program.
function M.set_cuda_library(path) check(C.dlv3_cuda_library(path)) end

-- Which libraries and flags dlv3 was built with, a line each.
function M.build_info() return F.string(C.dlv3_build_info()) end

-- Whether dlv3 was built with sanitizers, which take memory and time of their own.
function M.is_sanitized() return M.build_info():find('sanitizers', 1, true) ~= nil end

-- Operations a second that this processor reaches in 'f32' or 'bf16', measured; 0: not known here.
function M.measure_peak(dtype) return C.dlv3_measure_peak(F.dtype_id[dtype]) end

-- The processors that the control groups of this process allow, a fraction too; math.huge: no
-- limit. root: a folder that stands for / ('').
function M.cpu_quota(root) return C.dlv3_cpu_quota(root) end

-- n numbers in [0, 1) of the Philox stream (seed, stream), from position counter on: a C array of
-- doubles from 0.
function M.random(n, seed, stream, counter)
  local out = F.new('double[?]', n)
  C.dlv3_random(out, n, seed, stream, counter)
  return out
end

return M
