-- world.lua - dlv3.world(): the processes that a launcher (mpirun, srun) started, which do one work
-- together.
--
--   local world = dlv3.world()            {rank =, size =, local_rank =, local_size =, host =}; alone: rank 0 of 1
--   x:all_reduce_()                       the sum of all ranks' x; all_gather, broadcast_: `? x:all_gather` in the REPL
--   dlv3.barrier()                        waits for all ranks
--
-- All ranks call the same of these in the same order. An error on one rank ends all of them.

local F = require 'dlv3.core.ffi'
local tensor = require 'dlv3.core.tensor'

local M = {}

local World = {}
World.__index = World

local opened

-- {rank = from 0, size =, local_rank =, local_size =, host =}; local: among the ranks of this host.
-- Opens MPI on first use, where a launcher started this process.
function M.world()
  if opened then return opened end
  local info = F.new 'dlv3_world'
  F.check(F.C.dlv3_world_open(info))
  opened = setmetatable({
    rank = info.rank, size = info.size, local_rank = info.local_rank, local_size = info.local_size,
    host = F.string(info.host),
  }, World)
  return opened
end

function World:__tostring() return ('rank %d of %d on %s'):format(self.rank, self.size, self.host) end

-- Waits until all ranks have called it.
function M.barrier() tensor.zeros{0}:barrier() end

local function bytes_tensor(text, n) return tensor.frombytes(text .. ('\0'):rep(n - #text), {n}, {dtype = 'u8'}) end

-- The text of every rank, in their order: a list. Each rank gives its own.
function World:gather_text(text)
  local lengths = tensor.tensor({#text}, {dtype = 'i64'}):all_gather():totable()
  local most = math.max(1, unpack(lengths))
  local all, list = bytes_tensor(text, most):all_gather():tobytes(), {}
  for i, length in ipairs(lengths) do list[i] = all:sub((i - 1) * most + 1, (i - 1) * most + length) end
  return list
end

-- Raises on every rank unless all of them have the same texts under the same names: list = {{name,
-- text}, ...}. The message names the rank, its host and what differs.
function World:check_same(list)
  if self.size == 1 then return end
  local lines = {self.host}
  for _, entry in ipairs(list) do lines[#lines + 1] = ('%s\1%s'):format(entry[1], entry[2]) end
  local all = self:gather_text(table.concat(lines, '\2'))
  local function parse(text)
    local host, values = text:match '^[^\2]*', {}
    for name, value in text:gmatch '\2([^\1]*)\1([^\2]*)' do values[name] = value end
    return host, values
  end
  local first_host, first = parse(all[1])
  for rank = 1, self.size - 1 do
    local host, values = parse(all[rank + 1])
    for _, entry in ipairs(list) do
      local name = entry[1]
      if values[name] ~= first[name] then
        F.raise(('all ranks must be started alike: %s is %s on rank %d (%s) and %s on rank 0 (%s)')
                :format(name, values[name] or 'absent', rank, host, first[name] or 'absent', first_host))
      end
    end
  end
end

return M
