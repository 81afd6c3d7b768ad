-- test_world.lua - dlv3.world and the ops over all ranks: 1 to 4 ranks, on every MPI that there is.

local system = require 'dlv3.os'

return function(t)
  local dlv3 = require 'dlv3'
  local ranks = dofile(t.directory .. '/ranks.lua')
  local mpis, why_not = ranks.mpis(t)

  t.case('alone: rank 0 of 1, and collectives change nothing', function()
    local world = dlv3.world()
    t.eq({world.rank, world.size, world.local_rank, world.local_size}, {0, 1, 0, 1})
    t.eq(dlv3.tensor{1, 2}:all_reduce_(), dlv3.tensor{1, 2})
    t.eq(dlv3.tensor{1, 2}:all_gather(), dlv3.tensor{1, 2})
    dlv3.barrier()
  end)

  -- Every rank checks against a loop over what the other ranks hold, which it can compute by
  -- itself.
  local collectives = [[
    local dlv3 = require 'dlv3'
    local world = dlv3.world()
    local rank, size, device = world.rank, world.size, arg[1] or 'cpu'
    local function of(r, n, dtype)
      local x = dlv3.arange(0, n - 1):to('f64') * 7 + r * 3
      return (x - (x / 11):floor() * 11):to(device, dtype)
    end
    local function same(a, b, what)
      if a:tobytes() ~= b:tobytes() then error(('%s on rank %d: %s, expected %s'):format(what, rank, a, b)) end
    end
    for _, n in ipairs {0, 1, 5, 100003} do
      for _, dtype in ipairs {'u8', 'i32', 'i64', 'f16', 'bf16', 'f32', 'f64'} do
        local sum, joined = dlv3.zeros({n}, {dtype = 'f64', device = device}), {}
        for r = 0, size - 1 do
          sum = sum + of(r, n, 'f64')
          joined[r + 1] = of(r, n, dtype)
        end
        same(of(rank, n, dtype):all_reduce_(), sum:to(dtype), 'all_reduce_ ' .. dtype)
        same(of(rank, n, dtype):all_gather(), dlv3.cat(joined, 1), 'all_gather ' .. dtype)
        for root = 0, size - 1 do
          same(of(rank, n, dtype):broadcast_{root = root}, of(root, n, dtype), 'broadcast_ ' .. dtype)
        end
        local a, b = of(rank, n, dtype), of(rank, n, dtype)
        a:all_reduce_start_()
        b:all_reduce_start_()
        same(of(rank, n, dtype):all_reduce_(), sum:to(dtype), 'all_reduce_ while others are on their way')
        b:all_reduce_finish_()
        same(b, sum:to(dtype), 'all_reduce_start_ ' .. dtype)
        a:all_reduce_finish_()
        same(a, sum:to(dtype), 'all_reduce_start_ ' .. dtype)
      end
    end
    local maps = (dlv3.arange(0, 119):to(device) + rank):reshape(2, 3, 4, 5)
    local parts = {}
    for r = 0, size - 1 do parts[r + 1] = (dlv3.arange(0, 119):to(device) + r):reshape(2, 3, 4, 5) end
    same(maps:all_gather(), dlv3.cat(parts, 1), 'all_gather of maps')
    local view = dlv3.zeros({4, 4}, {device = device})
    view:narrow(1, 2, 2):fill_(rank + 1)
    view:narrow(1, 2, 2):all_reduce_()
    same(view:sum(), dlv3.tensor(8 * size * (size + 1) / 2), 'all_reduce_ of a part')
    local step = dlv3.compile(function(x)
      local y = x * 2
      y:all_reduce_start_()
      local z = (x + 1):all_reduce_()
      y:all_reduce_finish_()
      return y + z
    end)
    for i = 1, 4 do
      local expected = dlv3.tensor{3 * (size * (size - 1) / 2) + size, (3 * i + 1) * size}
      same(step(dlv3.tensor({rank, i}, {device = device})), expected, 'compiled')
    end
    if device ~= 'cpu' then
      local runtime, want = require 'dlv3.core.runtime', arg[2]
      for _, name in ipairs {'all_reduce_', 'all_reduce_start_', 'all_reduce_finish_', 'all_gather', 'broadcast_'} do
        local ran = runtime.chosen(dlv3.ops[name])
        assert(ran == want, name .. ' ran by ' .. ran)
      end
      local launches = runtime.graphs().launches
      assert(launches == (want == 'nccl' and 3 or 0), 'graphs: ' .. launches)
    end
    local texts = world:gather_text(('x'):rep(rank * 3))
    for r = 0, size - 1 do assert(texts[r + 1] == ('x'):rep(r * 3)) end
    dlv3.barrier()
    assert(world.local_size == size and world.local_rank == rank and #world.host > 0)
    local total = dlv3.tensor{1}:all_reduce_():item()
    if rank == 0 then print('ranks that are right: ' .. total) end
  ]]

  for _, mpi in ipairs {'openmpi', 'mpich'} do
    for n = 1, 4 do
      t.case(('%s, %d ranks: every collective against a loop'):format(mpi, n), function()
        if not table.concat(mpis, ' '):find(mpi) then
          t.skip(why_not or mpi .. ' is not installed (packages: install_packages.sh mpi)')
        end
        local output, status = ranks.run_code(t, mpi, n, collectives)
        t.ok(output:find('ranks that are right: ' .. n, 1, true) and status == 0, output)
      end)
    end
  end

  for _, implementation in ipairs {'nccl', 'mpi'} do
    t.case('two ranks on the emulated device, by ' .. implementation, function()
      if #mpis == 0 then t.skip(why_not) end
      local library = require 'dlv3.host'.root .. '/build/cuda_host/libdlv3_cuda.so'
      if not system.is_file(library) then
        t.skip 'no emulated device was built (make CUDA=0, or no C++ compiler)'
      end
      local environment = {DLV3_CUDA_LIBRARY = library, DLV3_NCCL = implementation == 'nccl' and 1 or 0}
      local output, status = ranks.run_code(t, mpis[1], 2, collectives, 'cuda ' .. implementation, environment)
      t.ok(output:find('ranks that are right: 2', 1, true) and status == 0, output)
    end)
  end

  local function case(name, fn)
    t.case(name, function()
      if #mpis == 0 then t.skip(why_not) end
      fn(mpis[1])
    end)
  end

  case('what differs between ranks is named', function(mpi)
    local output, status = ranks.run_code(t, mpi, 3, [[
      local world = require 'dlv3'.world()
      world:check_same{{'--lr', '0.1'}, {'--epochs', world.rank == 2 and '3' or '4'}}
    ]])
    t.ok(status ~= 0)
    local message = 'all ranks must be started alike: %-%-epochs is 3 on rank 2 %([^)]+%) and 4 on rank 0 %('
    t.ok(output:find('rank 0 on [^:]+: .-' .. message), output)
    t.eq(select(2, output:gsub('all ranks must be started alike', '')), 1, 'said once')
  end)

  case('an error on one rank ends all within seconds, with its rank and host', function(mpi)
    local begin = dlv3.now()
    local output, status = ranks.run_code(t, mpi, 3, [[
      local dlv3 = require 'dlv3'
      if dlv3.world().rank == 1 then error('this rank is broken', 0) end
      dlv3.zeros{3}:all_reduce_()
    ]])
    t.ok(status ~= 0 and output:find 'dlv3: rank 1 on [^:]+: this rank is broken', output)
    t.ok(dlv3.now() - begin < 10, 'within seconds')
  end)

  case('a rank that does not answer is given up', function(mpi)
    local code = [[-e 'if dlv3.world().rank == 0 then dlv3.barrier() else os.execute("sleep 20") end']]
    local output, status = t.run('DLV3_COLLECTIVE_TIMEOUT=1 ' .. ranks.command(mpi, 2, code))
    t.ok(status ~= 0 and output:find 'barrier: the other ranks did not answer for 1 s', output)
  end)

  case('the processors of a host are divided among its ranks', function(mpi)
    local output, status = t.run(ranks.command(mpi, 2, [[-e 'dlv3.world() io.write(dlv3.num_threads(), "\n")']]))
    t.eq(status, 0, output)
    local alone = t.run(require 'dlv3.host'.executable .. " -e 'print(dlv3.num_threads())'")
    local want = math.max(1, math.floor(tonumber(alone) / 2))
    t.eq(output:gsub('%s', ''), tostring(want):rep(2))
  end)

  case('srun without MPI is refused', function()
    local output, status = t.run('SLURM_STEP_NUM_TASKS=4 ' .. require 'dlv3.host'.executable .. " -e 'dlv3.world()'")
    t.ok(status == 1 and output:find 'srun started 4 processes without MPI', output)
  end)
end
