-- ranks.lua - runs dlv3 on several ranks, with each MPI that there is, for tests.

local host = require 'dlv3.host'
local system = require 'dlv3.os'
local files = require 'dlv3.io.files'

local M = {}

-- Per MPI: its launcher, and what it takes to start more ranks than cores, as root too.
local launchers = {
  openmpi = {
    'mpirun.openmpi',
    '--oversubscribe --allow-run-as-root --bind-to none --mca btl_vader_single_copy_mechanism none',
  },
  mpich = {'mpiexec.mpich', ''},
}

-- The MPIs that can be used here, {'openmpi', 'mpich'} in this order; none: and why not.
function M.mpis(t)
  local list, reason = {}, 'no MPI: install openmpi-bin and libopenmpi-dev, then make features'
  for _, name in ipairs {'openmpi', 'mpich'} do
    local _, status = t.run('command -v ' .. launchers[name][1])
    local library = ('%s/build/libdlv3_%s.so'):format(host.root, name)
    if status == 0 and system.is_file(library) then list[#list + 1] = name end
  end
  return list, #list == 0 and reason or nil
end

-- The command that runs `dlv3 <arguments>` on n ranks; options of the launcher may be added.
function M.command(mpi, n, arguments, options)
  local launcher = launchers[mpi]
  return ('OMPI_MCA_orte_base_help_aggregate=0 %s -np %d %s %s %s %s')
    :format(launcher[1], n, launcher[2], options or '', host.executable, arguments)
end

-- Writes code to a file and runs it on n ranks, with arguments and {NAME = value} in the
-- environment; returns the output and the status.
function M.run_code(t, mpi, n, code, arguments, environment)
  local path = t.folder() .. '/ranks.lua'
  files.save_text(path, code)
  local set = {}
  for name, value in pairs(environment or {}) do set[#set + 1] = ("%s='%s'"):format(name, value) end
  return t.run(table.concat(set, ' ') .. ' ' .. M.command(mpi, n, path .. ' ' .. (arguments or '')))
end

return M
