-- test_environment.lua - the DLV3_* variables, and how many threads there are by default.

local environment = require 'dlv3.cli.environment'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'

return function(t)
  local binary = require('dlv3.host').executable
  local processors = system.processors()
  local show_threads = (" %s -e 'print(dlv3.num_threads())' </dev/null"):format(binary)

  t.case('wrong values are errors that say what was expected', function()
    local function try(setting, message)
      local output, status = t.run('env ' .. setting .. show_threads)
      t.eq({output, status}, {'dlv3: ' .. message .. '\n', 2}, setting)
    end
    for _, value in ipairs {'abc', '-3', '0', '1.5', '2 threads', '0x2'} do
      try(("DLV3_NUM_THREADS='%s'"):format(value),
          ("DLV3_NUM_THREADS: expected a whole number from 1, got '%s'"):format(value))
    end
    try('DLV3_VERBOSE=high', "DLV3_VERBOSE: expected one of 0, 1, 2, got 'high'")
    try('DLV3_TF32=off', "DLV3_TF32: expected 0 or 1, got 'off'")
    try('DLV3_IMPL=onednm', "DLV3_IMPL: expected one of ref, vec, onednn, winograd, direct, pairs, depthwise, "
                            .. "atrous, cudnn, cublaslt, own, nccl, mpi, got 'onednm'; did you mean 'onednn'?")
    for _, name in ipairs {'SYNC', 'GRAPH', 'CUDNN_BENCHMARK', 'NONDETERMINISTIC'} do
      try(('DLV3_%s=yes'):format(name), ("DLV3_%s: expected 0 or 1, got 'yes'"):format(name))
    end
  end)

  t.case('more threads than processors, unknown names and empty values', function()
    local output, status = t.run('env DLV3_NUM_THREADS=100000' .. show_threads)
    t.eq({output, status}, {('dlv3: warning: DLV3_NUM_THREADS=100000: the machine has %d processors; %d threads '
                             .. 'are used\n%d\n'):format(processors, processors, processors), 0})
    output, status = t.run('env OMP_NUM_THREADS=100000' .. show_threads)
    t.eq({output, status}, {processors .. '\n', 0})
    output, status = t.run('env DLV3_NUM_THREADS=1' .. show_threads)
    t.eq({output, status}, {'1\n', 0})
    output, status = t.run('env DLV3_NUM_THREADS= DLV3_SYNC= DLV3_VERBOSE=' .. show_threads)
    t.eq({tonumber(output) ~= nil, status}, {true, 0}, output)
    output, status = t.run('env DLV3_NUM_THREAD=1' .. show_threads)
    t.eq(status, 0, output)
    t.ok(output:find("DLV3_NUM_THREAD is unknown to dlv3 and has no effect; did you mean 'DLV3_NUM_THREADS'? "
                     .. "(known are: DLV3_CACHE ", 1, true), output)
  end)

  t.case('settings of libraries are for dlv3 alone: programs that it starts inherit only what the user set', function()
    local show = (" %s -e 'os.execute [[env]]' </dev/null | grep -E "
                  .. "'^(GOMP_SPINCOUNT|OMP_WAIT_POLICY|GLIBC_TUNABLES|DLV3_RESTARTED)=' | sort"):format(binary)
    t.eq(t.run('env -u GOMP_SPINCOUNT -u OMP_WAIT_POLICY -u GLIBC_TUNABLES' .. show), '')
    local given = 'GLIBC_TUNABLES=glibc.malloc.check=0\nGOMP_SPINCOUNT=5\n'
    t.eq(t.run('env -u OMP_WAIT_POLICY ' .. given:gsub('\n', ' ') .. show), given)
    t.eq(t.run('env -u GOMP_SPINCOUNT -u GLIBC_TUNABLES OMP_WAIT_POLICY=passive' .. show), 'OMP_WAIT_POLICY=passive\n')
  end)

  t.case('each implementation has its name among those that DLV3_IMPL may be', function()
    local known = {}
    for _, name in ipairs(environment.implementations) do known[name] = true end
    for _, op in ipairs(require('dlv3').ops) do
      for id = 0, runtime.open_devices() - 1 do
        for _, name in ipairs(runtime.implementations(op, id)) do t.ok(known[name], op.name .. ': ' .. name) end
      end
    end
  end)

  t.case('the default is what the affinity allows', function()
    if processors < 2 then t.skip 'one processor' end
    if select(2, t.run 'command -v taskset') ~= 0 then t.skip 'no taskset (package util-linux)' end
    local first = t.run 'taskset -cp $$':match ': (%d+)'
    t.eq(t.run('env -u DLV3_NUM_THREADS -u OMP_NUM_THREADS taskset -c ' .. first .. show_threads), '1\n')
  end)

  t.case('quotas of control groups, versions 1 and 2, the least of a group and those above it', function()
    local function quota(files)
      local root = t.folder()
      for path, content in pairs(files) do
        t.run(('mkdir -p %s/%s'):format(root, path:match '^(.*)/'))
        local file = assert(io.open(root .. '/' .. path, 'w'))
        file:write(content)
        file:close()
      end
      return runtime.cpu_quota(root)
    end
    local self = 'proc/self/cgroup'
    t.eq(quota{}, math.huge)
    t.eq(quota{[self] = '0::/a/b\n', ['sys/fs/cgroup/a/b/cpu.max'] = '200000 100000\n'}, 2)
    t.eq(quota{[self] = '0::/a/b\n', ['sys/fs/cgroup/a/b/cpu.max'] = 'max 100000\n'}, math.huge)
    t.eq(quota{[self] = '0::/a/b\n', ['sys/fs/cgroup/a/b/cpu.max'] = '400000 100000\n',
               ['sys/fs/cgroup/a/cpu.max'] = '150000 100000\n'}, 1.5)
    t.eq(quota{[self] = '0::/\n', ['sys/fs/cgroup/cpu.max'] = '300000 100000\n'}, 3) -- a container with its own view
    -- and one that sees the host's path
    t.eq(quota{[self] = '0::/host/path\n', ['sys/fs/cgroup/cpu.max'] = '300000 100000\n'}, 3)
    local v1 = '9:cpuset:/x\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n'
    t.eq(quota{[self] = v1, ['sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us'] = '250000\n',
               ['sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us'] = '100000\n'}, 2.5)
    t.eq(quota{[self] = v1, ['sys/fs/cgroup/cpu/cpu.cfs_quota_us'] = '400000\n',
               ['sys/fs/cgroup/cpu/cpu.cfs_period_us'] = '100000\n'}, 4)
    t.eq(quota{[self] = v1, ['sys/fs/cgroup/cpu/cpu.cfs_quota_us'] = '-1\n',
               ['sys/fs/cgroup/cpu/cpu.cfs_period_us'] = '100000\n'}, math.huge)
    t.eq(quota{[self] = '3:cpuset:/\n', ['sys/fs/cgroup/cpuset/cpu.cfs_quota_us'] = '100000\n',
               ['sys/fs/cgroup/cpuset/cpu.cfs_period_us'] = '100000\n'}, math.huge)
    for _, odd in ipairs {'', 'x\n', '0::\n', '0::relative\n', ('0::/%s\n'):format(('a/'):rep(3000)), '0::/\0\n'} do
      t.eq(quota{[self] = odd}, math.huge)
    end
    for _, odd in ipairs {'', '0 0\n', '-1 -1\n', '1 0\n', 'nan 100000\n', '100000\n'} do
      t.eq(quota{[self] = '0::/\n', ['sys/fs/cgroup/cpu.max'] = odd}, math.huge, odd)
    end
  end)
end
