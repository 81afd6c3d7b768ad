-- bench.lua - how fast dlv3 is, and beside PyTorch, ONNX Runtime and OpenVINO (`make bench`).
--
--   dlv3 bench                       the whole comparison, each side in processes of its own; writes the table of this
--                                    kind of processor into bench/RESULTS.md, its medians to bench/baseline/KIND.tsv
--   dlv3 bench --rows r50-train      only the rows whose names have one of these words
--   dlv3 bench --work train ...      one work, in this process: what the comparison runs for dlv3's side
--   dlv3 bench --device cuda         the same for a GPU: rows of its own, PyTorch on that GPU; bench/RESULTS_GPU.md.
--                                    --rows eager, compiled, autotune, engines, order: a part of them
--   dlv3 bench --ops                 each distinct convolution of the models, by implementation, and what memory bounds
--   dlv3 bench --threads-curve       a work on 1, 2, ... threads

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local system = require 'dlv3.os'
local files = require 'dlv3.io.files'
local options = require 'dlv3.cli.options'
local processor = require 'bench.processor'
local work = require 'bench.work'
local run = require 'bench.run'

local opt, given = options.parse({
  usage = 'dlv3 bench [options]',
  title = 'Times dlv3, beside PyTorch, ONNX Runtime and OpenVINO where PYTHON or peer/ has them.',
  'The comparison:',
  {'device', 'cpu', 'cpu, cuda or cuda:1: where everything runs'},
  {'rows', {}, 'only rows whose names have one of these words, such as r50-train,bf16,data,start'},
  {'rounds', 3, 'how often both sides take turns', min = 1},
  {'quick', false, 'one round, and few runs: for a look, not for the record'},
  {'peers', true, 'measure the peers too'},
  {'data-path', nil, 'folder with VOCdevkit for the input pipeline; without it a set is drawn', value = 'DIR'},
  {'limit', 0, 'seconds that a process of a row may take, 0: as many as it does', min = 0},
  {'output', nil, 'where the tables go (all rows: bench/RESULTS.md, of a GPU bench/RESULTS_GPU.md), in place of '
                  .. 'those of the same kind of processor; a picture beside it', value = 'FILE.md'},
  'One work (of a GPU\'s rows size, batch, steps and runs can be given too, for a rehearsal):',
  {'work', 'train', 'train (forward, backward, SGD step, aux head) or infer (to the class map)',
   choices = {'train', 'infer'}},
  {'model', 'deeplabv3_mobilenet_v3_large', 'model to time', choices = work.models},
  {'size', 240, 'height and width of the images', min = 1},
  {'batch', 4, 'images at once', min = 1},
  {'precision', 'f32', 'f32, bf16 or f16', choices = {'f32', 'bf16', 'f16'}},
  {'tf32', dlv3.allow_tf32(), 'let f32 convolutions on a GPU round their inputs to TF32'},
  {'runs', 5, 'timed runs, after some to warm up', min = 1},
  {'steps', 1, 'how often a run does the work, in a row', min = 1},
  {'threads', 0, 'threads, 0 for all'},
  {'compile', true, 'record and replay'},
  {'checkpoint-activations', false, 'make activations again in backward'},
  'More:',
  {'ops', false, 'each distinct convolution of the models (or of --model): forward and gradients, by '
                 .. 'implementation; then ops bound by memory'},
  {'only', nil, 'of --ops only the convolutions whose line has this in it, such as "3x3 rate"', value = 'TEXT'},
  {'peak', 0, 'TFLOP/s that --ops gives shares of; 0: measured on the cpu, 790 (bf16 on an H200) on a GPU',
   type = 'number', min = 0},
  {'seconds', 0.1, 'for each of them', type = 'number'},
  {'threads-curve', false, 'the work of --model, --work, --size, ... on 1, 2, ... threads; --output FILE.png draws it'},
}, arg)

if opt.threads > 0 then dlv3.num_threads(opt.threads) end
dlv3.allow_tf32(opt.tf32)
local on_gpu = work.on_gpu(opt.device)

-- -- One work -------------------------------------------------------------------------------------

-- Why a recorded work was not one launch a step, or ''.
local function graph_note(launches)
  if not (on_gpu and opt.compile) or launches >= opt.runs * opt.steps then return '' end
  local reason = runtime.graphs().refused:gsub('[|;%c]', ' ')
  return ('; not one CUDA graph: %s'):format(reason ~= '' and reason or 'none was asked for')
end

local function work_line()
  local before = runtime.graphs().launches
  local times = work.times(work.make(opt), opt.runs, opt)
  local note = graph_note(runtime.graphs().launches - before)
  local median, least, most = work.median(times)
  local memory = dlv3.memory(opt.device)
  -- what other programs can not have meanwhile
  local peak = on_gpu and math.max(memory.reserved, memory.peak) or system.peak_memory()
  return ('dlv3 %s %s%s: %.4f s (%.4f to %.4f), peak %.0f MiB, tensors %.0f MiB%s'):format(
    dlv3.version, opt.precision, on_gpu and ' ' .. opt.device or '', median, least, most, peak / 2 ^ 20,
        memory.peak / 2 ^ 20, note)
end

-- -- Threads --------------------------------------------------------------------------------------

local function threads_curve()
  local words = ('bench --model %s --work %s --size %d --batch %d --precision %s --runs %d --threads '):format(
                opt.model, opt.work, opt.size, opt.batch, opt.precision, opt.runs)
  local x, y, first = {}, {}, nil
  print(('%s %s %d, batch %d, %s\n\nthreads  seconds  times faster'):format(opt.model, opt.work, opt.size, opt.batch,
      opt.precision))
  for n = 1, dlv3.num_threads() do
    local m, reason = run.measure(run.dlv3(words .. n))
    if not m then error(('with %d threads: %s'):format(n, reason), 0) end
    first = first or m.value
    x[#x + 1], y[#y + 1] = n, first / m.value
    print(('%7d  %7.4f  %12.2f'):format(n, m.value, first / m.value))
  end
  if opt.output then
    require 'dlv3.vision.plot'.write(opt.output, {{name = 'measured', x = x, y = y}, {name = 'ideal', x = x, y = x}},
      {title = 'speed by threads', x_label = 'threads', y_label = 'times one thread', y_min = 0})
    print('drawn to ' .. opt.output)
  end
end

-- -- The comparison -------------------------------------------------------------------------------

local PHOTO_SIZES = 30

-- A folder of photos, each of another size, upright and lying as VOC's: pictures of the data set,
-- resized.
local function make_photos(folder, set)
  local image = require 'dlv3.vision.image'
  system.make_directory(folder)
  for i = 0, PHOTO_SIZES - 1 do
    local size = {500, 290 + 7 * i} -- the longer side is VOC's
    if i % 3 > 0 then size = {size[2], size[1]} end
    image.write_jpeg(('%s/%02d.jpg'):format(folder, i), image.resize(image.read((set.files(i % set.size + 1))), size))
  end
end

-- A file with random weights that both sides load, a photo, photos of many sizes, and, unless
-- --data-path names one, a data set.
local function make_inputs()
  local o = {weights = run.scratch .. '/mobilenet_v3.pth', data_path = opt.data_path or run.scratch .. '/shapes',
             split = 'train'}
  system.make_directory(run.scratch .. '/predicted')
  o.data_name = opt.data_path and opt.data_path:match '([^/]+)/*$' or 'drawn shapes'
  dlv3.manual_seed(0)
  dlv3.save(o.weights, require 'models'.deeplabv3_mobilenet_v3_large{num_classes = 21}:state_dict())
  if not opt.data_path then
    local text, status = run.output(run.dlv3('make_shapes --train 64 --val 1 --width 480 --height 360 --output-dir '
                                             .. run.quote(o.data_path)))
    if status ~= 0 then error(text, 0) end
  end
  local set = require 'dlv3.data'.voc{root = o.data_path, split = 'train', masks = false}
  o.photo, o.photos, o.photo_sizes = set.files(1), run.scratch .. '/photos', PHOTO_SIZES
  make_photos(o.photos, set)
  return o
end

local function chosen_rows(list)
  local rows = {}
  for _, row in ipairs(list) do
    local wanted = #opt.rows == 0
    for _, word in ipairs(opt.rows) do wanted = wanted or row.id:find(word, 1, true) ~= nil end
    if wanted then rows[#rows + 1] = row end
  end
  if #rows > 0 then return rows end
  local names = {}
  for i, row in ipairs(list) do names[i] = row.id end
  error('--rows: no row has such a word (there are: ' .. table.concat(names, ', ') .. ')', 0)
end

-- The R50 training step's useful speed beside the peak, once it has been measured.
local function share_of(rows, peaks)
  local convolutions, models = require 'bench.convolutions', require 'models'
  for _, row in ipairs(rows) do
    if row.id == 'r50-train-480-f32' and row.ours then
      local o = row.work
      local flops = convolutions.total(convolutions.calls(models[o.model]{num_classes = 21, aux = true},
          dlv3.randn{1, 3, o.size, o.size}, o.batch), true)
      return {gflops = flops / row.ours.value / 1e9, peak = peaks.f32 / 1e9}
    end
  end
end

-- The text of the file at path, nil where there is none.
local function text_of(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read '*a'
  file:close()
  return text
end

local function picture_of(path, kind) return ('%s-%s.png'):format(path:gsub('%.md$', ''), kind) end

-- Before anything is measured: neither file may replace one of the data set.
local function check_output(path, kind)
  local set = opt.data_path and require 'dlv3.data'.voc{root = opt.data_path, split = 'train'}
  local inputs = {}
  for i = 1, set and set.size or 0 do inputs[2 * i - 1], inputs[2 * i] = set.files(i) end
  files.check_output(path, inputs, '--output')
  files.check_output(picture_of(path, kind), inputs, '--output')
end

local function write_results(path, rows, share, about)
  local report = require 'bench.report'
  local picture = picture_of(path, about.kind)
  local drawn, ok = pcall(report.chart, picture, rows)
  if not drawn then io.stderr:write('no picture: ', tostring(ok), '\n') end
  about.picture = drawn and ok and picture:match '[^/]+$' or nil
  files.save_text(path, report.placed(text_of(path), about.kind, report.section(rows, share, about)))
end

local function few_runs(row)
  row.ours = row.ours:gsub('%-%-runs %d+', '--runs 1')
  for _, peer in ipairs(row.peers) do
    for _, key in ipairs {'words', 'command'} do
      peer[key] = peer[key] and peer[key]:gsub('%-%-runs %d+', '--runs 1')
    end
  end
end

local function comparison()
  local compare, report, rows = require 'bench.compare', require 'bench.report', require 'bench.rows'
  local change = {}
  for _, key in ipairs {'size', 'batch', 'steps', 'runs'} do change[key] = given[key] and opt[key] or nil end
  local list = chosen_rows(on_gpu and rows.of_gpu(opt.device, change) or rows.list(make_inputs()))
  local python = opt.peers and rows.python() or nil
  if opt.peers and not python then io.stderr:write(rows.how_to_get_peers, '\n\n') end
  local rounds = opt.quick and not given.rounds and 1 or opt.rounds
  local output = opt.output or #opt.rows == 0 and not opt.quick
      and run.root .. (on_gpu and '/bench/RESULTS_GPU.md' or '/bench/RESULTS.md') or nil
  local words = {}
  for i = 1, #arg do words[i] = arg[i]:gsub('^/.*/', '') end -- folders of this machine say nothing to a reader
  local about = {command = 'dlv3 scripts/bench.lua ' .. table.concat(words, ' '), rounds = rounds,
                 peaks = not on_gpu and require 'bench.ops'.peaks() or nil,
                 kind = on_gpu and 'gpu' or processor.describe().kind}
  if output then check_output(output, about.kind) end
  local done, medians = {}, ('%s/%s.tsv'):format(run.scratch, about.kind) -- what bench_check reads
  system.make_directory(run.scratch)
  for i, row in ipairs(list) do
    io.stderr:write(('[%d/%d] %s\n'):format(i, #list, row.text))
    if opt.quick then few_runs(row) end
    compare.row(row, rounds, python, opt.limit > 0 and opt.limit or nil)
    done[i] = row
    if output then write_results(output, done, nil, about) end
    if opt.peers and not opt.quick then files.save_text(medians, report.medians(done, about.kind)) end
  end
  local share = share_of(done, about.peaks)
  print(table.concat(report.tables(done, share), '\n'))
  if output then
    write_results(output, done, share, about)
    if not opt.output then
      files.save_text(('%s/bench/baseline/%s.tsv'):format(run.root, about.kind), report.medians(done, about.kind))
    end
    print('\nwritten to ' .. output)
  end
end

if opt.ops then
  local all = not given.model
  require 'bench.ops'.run{models = all and work.models or {opt.model}, size = opt.size, batch = opt.batch,
                          work = opt.work, seconds = opt.seconds, device = opt.device, only = opt.only,
                          peak = opt.peak * 1e12, precisions = given.precision and {opt.precision} or {'f32', 'bf16'}}
elseif opt.threads_curve then threads_curve()
elseif given.work or given.model then print(work_line())
else comparison() end
