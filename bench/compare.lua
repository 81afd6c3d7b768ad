-- compare.lua - measures rows: dlv3 and every peer one after the other, round after round, each in
-- a process of its own.
--
-- A round's figure is the median of a process's runs; a row's is the median of its rounds. From the
-- second round on only the peers run that came close to the best one in the first: the others can
-- not decide the row.

local dlv3 = require 'dlv3'
local run = require 'bench.run'
local work = require 'bench.work'

local M = {}

local CLOSE = 1.2

local function say(...) io.stderr:write(string.format(...), '\n') end

local function measure(row, command, limit)
  if row.kind ~= 'start' then return run.measure(command, limit) end
  local times = {}
  for i = 1, row.repeats do
    local m, reason = run.time(command)
    if not m then return nil, reason end
    times[i] = m.value
  end
  local median, least, most = work.median(times)
  return {value = median, least = least, most = most}
end

local function prepare(peer, python)
  local needs = peer.needs
  if not needs or io.open(needs.file) then return true end
  say('  %s: writing %s', peer.name, needs.file)
  local text, status = run.output(('%s %s/bench/%s %s'):format(run.quote(python), run.root, needs.script, needs.words))
  if status ~= 0 then return false, text:match '([^\n]+)%s*$' or 'no output' end
  return true
end

-- GOMP_SPINCOUNT: as dlv3 sets it for itself. PyTorch is faster with it (MobileNetV3 inference at
-- 480, channels last: 0.073 s, without it 0.083).
local function peer_command(peer, python)
  if peer.command then return peer.command end
  local script = peer.script and run.quote(run.root .. '/bench/' .. peer.script) .. ' ' or ''
  local cache = run.quote(run.scratch .. '/inductor')
  return ('GOMP_SPINCOUNT=1000 TORCHINDUCTOR_CACHE_DIR=%s %s %s%s'):format(cache, run.quote(python), script, peer.words)
end

-- The rounds of one side as one figure.
local function joined(name, rounds)
  if #rounds == 0 then return nil end
  local values, least, most, rss, note = {}, math.huge, -math.huge, nil, nil
  for i, m in ipairs(rounds) do
    values[i] = m.value
    least, most = math.min(least, m.least), math.max(most, m.most)
    if m.rss then rss = math.max(rss or 0, m.rss) end
    note = m.note or note
  end
  return {name = name, what = rounds[1].what, value = (work.median(values)), least = least, most = most, rss = rss,
          note = note, rounds = #rounds}
end

local function better(row, a, b) return row.kind == 'rate' and a > b or row.kind ~= 'rate' and a < b end

local function best_of(row, peers)
  local best
  for _, p in ipairs(peers) do
    if p.value and (not best or better(row, p.value, best.value)) then best = p end
  end
  return best
end

local function close_ones(row, sides)
  local best, close = nil, {}
  for _, s in ipairs(sides) do
    local v = s.rounds[1] and s.rounds[1].value
    if v and (not best or better(row, v, best)) then best = v end
  end
  for _, s in ipairs(sides) do
    local v = s.rounds[1] and s.rounds[1].value
    if v and math.max(v / best, best / v) <= CLOSE then close[#close + 1] = s end
  end
  return close
end

local function one(row, side, command, round, limit)
  local m, reason = measure(row, command, limit)
  if m then
    side.rounds[#side.rounds + 1] = m
    say(row.kind == 'rate' and '  round %d  %-22s %8.1f%s' or '  round %d  %-22s %8.4f s%s', round, side.name, m.value,
        m.rss and (', peak %d MiB'):format(m.rss) or '')
  else
    side.failed = reason
    say('  round %d  %-22s failed: %s', round, side.name, reason)
  end
end

-- What is done once before a row is measured.
local function run_first(row, limit)
  local begin = dlv3.now()
  local text, status = run.output_within(row.first, limit)
  say('  once before, %.1f s: %s', dlv3.now() - begin,
      status == 0 and 'done' or text:match '([^\n]+)%s*$' or 'no output')
end

-- Fills in row.ours, row.results (of the peers), row.best, row.least_rss. python: nil measures dlv3
-- alone. limit: seconds that a process may take, nil: as many as it does.
function M.row(row, rounds, python, limit)
  local ours, sides = {name = 'dlv3', rounds = {}}, {}
  for _, peer in ipairs(row.peers) do
    local side = {name = peer.name, peer = peer, rounds = {}}
    if python or peer.command then
      local ready, reason = prepare(peer, python)
      if ready then sides[#sides + 1] = side else say('  %s can not be measured: %s', peer.name, reason) end
    end
  end
  if row.first then run_first(row, limit) end
  local active = sides
  for round = 1, rounds do
    one(row, ours, row.ours, round, limit)
    for _, side in ipairs(active) do
      if not side.failed then one(row, side, peer_command(side.peer, python), round, limit) end
    end
    if round == 1 then active = close_ones(row, sides) end
  end
  row.ours, row.results = joined('dlv3', ours.rounds), {}
  if row.ours and row.ours.note then row.text = row.text .. '; ' .. row.ours.note end
  for _, side in ipairs(sides) do row.results[#row.results + 1] = joined(side.name, side.rounds) end
  row.best = best_of(row, row.results)
  for _, p in ipairs(row.results) do
    -- memory's targets are of PyTorch's
    if p.rss and p.name:find '^PyTorch' and (not row.least_rss or p.rss < row.least_rss.rss) then row.least_rss = p end
  end
end

-- How many times faster than the best peer; the part of the least memory. nil where a side is
-- missing.
function M.speed(row)
  if not (row.ours and row.best) then return nil end
  return row.kind == 'rate' and row.ours.value / row.best.value
      or row.kind ~= 'rate' and row.best.value / row.ours.value
end

function M.memory(row)
  if not (row.ours and row.ours.rss and row.least_rss) then return nil end
  return row.ours.rss / row.least_rss.rss
end

return M
