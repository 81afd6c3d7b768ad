-- report.lua - the measured rows as tables (Markdown, readable as they are) and as a bar chart.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local compare = require 'bench.compare'
local processor = require 'bench.processor'

local M = {}

-- One line on the machine.
function M.machine()
  local p = processor.describe()
  return ('%s (family %s, model %s, %s), %d threads, %.0f GiB, %s'):format(
      p.name, p.family, p.model, p.set, dlv3.num_threads(), processor.memory(), processor.system())
end

local function number(v)
  if v >= 100 then return ('%.0f'):format(v) end
  return v >= 10 and ('%.1f'):format(v) or v >= 1 and ('%.2f'):format(v) or ('%.4f'):format(v):gsub('0$', '')
end

-- "1.20 s (1.16 to 1.24)"
local function figure(row, m)
  if not m then return '-' end
  return ('%s%s (%s to %s)'):format(number(m.value), row.kind == 'rate' and '' or ' s', number(m.least), number(m.most))
end

local function verdict(value, targets, lower)
  if not value or not targets then return '' end
  local function met(v) return lower and value <= v or not lower and value >= v end
  return met(targets[2]) and 'goal' or met(targets[1]) and 'must' or 'short'
end

local function target(targets, i) return targets and ('%.3gx'):format(targets[i]) or '-' end

local function times_line(row)
  local speed = compare.speed(row)
  return ('| %s | %s | %s | %s | %s | %s | %s | %s |'):format(
      row.text, figure(row, row.ours), row.best and row.best.name or '-', figure(row, row.best),
         speed and ('%.2fx'):format(speed) or '-', target(row.time, 1), target(row.time, 2), verdict(speed, row.time))
end

local function memory_line(row)
  local part = compare.memory(row)
  return ('| %s | %d MiB | %s | %s | %s | %s | %s | %s |'):format(
      row.text, row.ours.rss, row.least_rss and row.least_rss.name or '-',
         row.least_rss and ('%d MiB'):format(row.least_rss.rss) or '-', part and ('%.2fx'):format(part) or '-',
         target(row.memory, 1), target(row.memory, 2), verdict(part, row.memory, true))
end

local function all_peers_line(row)
  local list = {}
  for i, p in ipairs(row.results) do
    list[i] = ('%s %s%s'):format(p.name, figure(row, p), p.rss and (', %d MiB'):format(p.rss) or '')
  end
  return ('| %s | %s |'):format(row.text, table.concat(list, '; '))
end

-- share: {gflops, peak} of the R50 training step, or nil. Returns lines.
function M.tables(rows, share)
  local lines = {'| work | dlv3 | best peer | its time | dlv3 is faster | must | goal | reached |',
                 '|---|---|---|---|---|---|---|---|'}
  for _, row in ipairs(rows) do lines[#lines + 1] = times_line(row) end
  if share then
    local part = share.gflops / share.peak
    lines[#lines + 1] = ('| useful GFLOP/s of that step over the measured peak, f32 | %.0f of %.0f | - | - | %.0f '
                         .. '%% | 75 %% | 95 %% | %s |'):format(
      share.gflops, share.peak, 100 * part, verdict(part, {0.75, 0.95}))
  end
  local memory = {}
  for _, row in ipairs(rows) do
    if row.ours and row.ours.rss then memory[#memory + 1] = memory_line(row) end
  end
  if #memory > 0 then
    for _, line in ipairs {'', '| peak memory | dlv3 | PyTorch mode with the least | its memory | dlv3 needs | '
                               .. 'must | goal | reached |', '|---|---|---|---|---|---|---|---|'} do
      lines[#lines + 1] = line
    end
    for _, line in ipairs(memory) do lines[#lines + 1] = line end
  end
  return lines
end

local function versions(rows)
  local seen, list = {}, {}
  for _, row in ipairs(rows) do
    for _, p in ipairs(row.results) do
      local name = p.what and p.what:match '^(%a[%a ]* [%d.]+[%w+.]*)'
      if name and not seen[name] then seen[name], list[#list + 1] = true, name end
    end
  end
  return #list > 0 and table.concat(list, ', ') or 'none'
end

-- A kind of processor's part of bench/RESULTS.md. about: kind, command, rounds, picture (its name
-- or nil), peaks (of the processor, where that is timed).
function M.section(rows, share, about)
  local lines = {
    '## ' .. about.kind, '', 'Written by `' .. about.command .. '` on ' .. os.date '%Y-%m-%d' .. '.', '',
    '- Machine: ' .. M.machine() .. '.',
    about.peaks and ('- Its peak, by multiply-adds on registers alone: %.0f GFLOP/s f32, %.0f bf16.'):format(
        about.peaks.f32 / 1e9, about.peaks.bf16 / 1e9) or
      '- Ten steps in a row to one wait for the device. Memory: what the allocator took from the device, at its '
      .. 'largest. Targets are of an H200.\n- cuDNN\'s engines are chosen by timing on both sides: PyTorch with '
      .. 'cudnn.benchmark, dlv3 with DLV3_CUDNN_BENCHMARK=1, by a process before the measured one.',
    '- dlv3 ' .. dlv3.version .. ': ' .. runtime.build_info():gsub('%s*\n', '; '):gsub('; $', ''):gsub('  +', ' ')
        .. '.',
    '- Peers: ' .. versions(rows) .. '.',
    ('- Both sides alternately, each in a process of its own, %d rounds; a figure is the median of the rounds\' '
     .. 'medians, in brackets least and most of all runs.'):format(about.rounds),
    '  From the second round on only the peer\'s modes run that came within 20 % of its best one. Same model, size '
    .. 'and heads (training: with the auxiliary one, SGD step',
    '  included; inference: without, to the class map); random data, 21 classes. The best peer of a row is the '
    .. 'fastest of all modes of that precision.',
  }
  if about.peaks then lines[#lines + 1] = '- Memory: the process\'s resident set, at its largest.' end
  lines[#lines + 1] = ''
  for _, line in ipairs(M.tables(rows, share)) do lines[#lines + 1] = line end
  if about.picture then lines[#lines + 1] = '\n![times beside the best peer](' .. about.picture .. ')' end
  lines[#lines + 1] = '\nAll peers:\n\n| work | medians |\n|---|---|'
  for _, row in ipairs(rows) do
    if #row.results > 0 then lines[#lines + 1] = all_peers_line(row) end
  end
  return table.concat(lines, '\n') .. '\n'
end

local TITLE = '# Measured\n\nA part for each kind of processor (or GPU); `make bench` writes the one of the '
              .. 'machine that it runs on and leaves the others.\n'

-- The text of a results file (nil: a new one) with this section as the part of that kind: where it
-- has one, in its place.
function M.placed(text, kind, section)
  local first, last = ('<!-- begin %s -->\n'):format(kind), ('<!-- end %s -->\n'):format(kind)
  text = text or TITLE
  local from, to = text:find(first, 1, true), select(2, text:find(last, 1, true))
  if from and to and from < to then return text:sub(1, from - 1) .. first .. section .. last .. text:sub(to + 1) end
  return text .. '\n' .. first .. section .. last
end

local function column(format, value) return value and format:format(value) or '-' end

-- The rows' medians for programs (bench_check): tab-separated, '-' where a side is missing.
function M.medians(rows, kind)
  local lines = {('# %s: row, dlv3 (seconds, or a rate), best peer, its median, times faster, PyTorch mode with '
                  .. 'the least memory, its MiB, part of it, MiB of dlv3'):format(kind)}
  for _, row in ipairs(rows) do
    local ours, best, least = row.ours or {}, row.best or {}, row.least_rss or {}
    lines[#lines + 1] = table.concat({
      row.id, column('%.5g', ours.value), best.name or '-', column('%.5g', best.value),
      column('%.3f', compare.speed(row)),
      least.name or '-', column('%.0f', least.rss), column('%.3f', compare.memory(row)), column('%.0f', ours.rss)},
          '\t')
  end
  return table.concat(lines, '\n') .. '\n'
end

-- Time of each engine beside the best peer's (1), a group a row.
function M.chart(path, rows)
  local plot = require 'dlv3.vision.plot'
  local groups = {}
  for _, row in ipairs(rows) do
    if row.kind == 'seconds' and row.ours and row.best then
      local bars = {{name = 'dlv3', value = row.ours.value / row.best.value}}
      for _, p in ipairs(row.results) do
        local ratio = p.value / row.best.value
        bars[#bars + 1] = {name = p.name, value = math.min(ratio, 2.5),
                           text = ratio > 2.5 and ('%.1f'):format(ratio) or nil}
      end
      groups[#groups + 1] = {name = row.text, bars = bars}
    end
  end
  if #groups > 0 then
    plot.write_bars(path, groups, {title = 'time, the best peer = 1 (less is better)', mark = 1, x_max = 2.5})
  end
  return #groups > 0
end

return M
