-- environment.lua - checks the DLV3_* variables once, when the program starts: a wrong value ends
-- it with status 2, an unknown name is a warning (other programs may have variables that begin so).

local expect = require 'dlv3.core.expect'
local host = require 'dlv3.host'

local M = {}

-- All implementations of ops, on the cpu and on a GPU: what DLV3_IMPL may be.
M.implementations = {
  'ref', 'vec', 'onednn', 'winograd', 'direct', 'pairs', 'depthwise', 'atrous', 'cudnn', 'cublaslt', 'own', 'nccl',
  'mpi',
}

local function is_whole_from_one(value) return value:find '^%s*%d+%s*$' ~= nil and tonumber(value) >= 1 end

local switch, any = expect.one_of{'0', '1'}, expect.any
local from_one = expect.value('a whole number from 1', is_whole_from_one)

-- By name the check (expect.lua) of its value.
M.variables = {
  DLV3_NUM_THREADS = from_one, DLV3_VERBOSE = expect.one_of{'0', '1', '2'},
  DLV3_IMPL = expect.one_of(M.implementations),
  DLV3_SYNC = switch, DLV3_GRAPH = switch, DLV3_TF32 = switch, DLV3_CUDNN_BENCHMARK = switch,
  DLV3_NONDETERMINISTIC = switch, DLV3_CACHE = any, DLV3_MPI = any, DLV3_NCCL = switch,
  DLV3_COLLECTIVE_TIMEOUT = from_one, DLV3_CUDA_LIBRARY = any, DLV3_TEST_DATA = any, DLV3_FUZZ = any,
}

local function names()
  local list = {}
  for name in pairs(M.variables) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- Checks variables ({NAME = value}) on a machine with so many processors. Returns two lists of
-- messages: errors and warnings. An empty value counts as unset.
function M.check(variables, processors)
  local errors, warnings = {}, {}
  for name, value in pairs(variables) do
    local check = M.variables[name]
    local message = check and value ~= '' and check(value, name)
    if not check then
      local question = require 'dlv3.core.suggest'.text(name, names())
      warnings[#warnings + 1] = ('the environment variable %s is unknown to dlv3 and has no effect%s (known are: %s)')
                                :format(name, question, table.concat(names(), ' '))
    elseif message then
      errors[#errors + 1] = message
    elseif name == 'DLV3_NUM_THREADS' and value ~= '' and tonumber(value) > processors then
      warnings[#warnings + 1] = ('DLV3_NUM_THREADS=%s: the machine has %d processors; %d threads are used'):format(
                                value, processors, processors)
    end
  end
  return errors, warnings
end

if next(host.environment) then
  local F = require 'dlv3.core.ffi'
  local errors, warnings = M.check(host.environment, F.C.dlv3_processors())
  for _, message in ipairs(warnings) do io.stderr:write('dlv3: warning: ', F.printable(message), '\n') end
  for _, message in ipairs(errors) do io.stderr:write('dlv3: ', F.printable(message), '\n') end
  if #errors > 0 then os.exit(2) end
end

return M
