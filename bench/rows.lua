-- rows.lua - what is compared: each row with dlv3's command, the peers' commands, and the targets.
--
-- To add a row: an entry in M.list. must and goal are what dlv3 aims at: times faster than the best
-- peer, or, of memory, the part of the least that PyTorch needs. Where they differ by instruction
-- set, those of one stand under its name.

local run = require 'bench.run'
local processor = require 'bench.processor'
local host = require 'dlv3.host'

local M = {}

local names = {r50 = 'ResNet-50', mbv3 = 'MobileNetV3'}
local models = {r50 = 'deeplabv3_resnet50', mbv3 = 'deeplabv3_mobilenet_v3_large'}

-- The peers' python: PYTHON, or the virtual environment in peer/; nil without one.
function M.python()
  for _, path in ipairs {os.getenv 'PYTHON' or host.root .. '/peer/bin/python3'} do
    local _, status = run.output(run.quote(path) .. ' -c "import torch, torchvision"')
    if status == 0 then return path end
  end
end

M.how_to_get_peers = [[
The peers are not there (PYTHON names no python with torch and torchvision, nor is there one in peer/), so dlv3 is
shown alone.
To get them:
  python3 -m venv peer
  peer/bin/pip install torch torchvision onnx onnxscript onnxruntime openvino
CPU-only builds of torch are smaller: add --index-url https://download.pytorch.org/whl/cpu for the first two.]]

-- -- Works of a model -----------------------------------------------------------------------------

local torch_modes = {f32 = {'nchw', 'channels_last', 'compiled'}, bf16 = {'bf16', 'bf16_compiled'}}

local function onnx_file(o) return ('%s/%s_%d_%d.onnx'):format(run.scratch, o.model, o.size, o.batch) end

local function model_peers(o)
  local list = {}
  local what = ('--model %s --work %s --size %d --batch %d'):format(o.model, o.work, o.size, o.batch)
  for _, mode in ipairs(torch_modes[o.precision]) do
    list[#list + 1] = {name = 'PyTorch ' .. mode:gsub('_', ' '), script = 'torch_peer.py',
                       words = ('%s --mode %s --runs %d'):format(what, mode, o.runs)}
  end
  if o.work ~= 'infer' then return list end
  local file = onnx_file(o)
  for _, engine in ipairs(o.precision == 'f32' and {'onnxruntime', 'openvino'} or {'openvino'}) do
    list[#list + 1] = {
      name = engine == 'openvino' and 'OpenVINO' or 'ONNX Runtime', script = 'onnx_peer.py',
      words = ('--engine %s --onnx %s --size %d --batch %d --precision %s --runs %d'):format(
          engine, run.quote(file), o.size, o.batch, o.precision, o.runs),
      needs = {file = file, script = 'export_onnx.py',
               words = ('--model %s --size %d --batch %d --output %s'):format(
          o.model, o.size, o.batch, run.quote(file))},
    }
  end
  return list
end

local function text_of(short, work, size, batch, precision)
  return ('%s %s %d, batch %d, %s'):format(names[short], work == 'train' and 'training step' or 'inference', size,
                                           batch, precision)
end

-- {must, goal} on this processor. all: {must, goal, avx512_bf16 = {must, goal}}, the last for
-- processors with that instruction set.
local function targets(all)
  local own = all and all[processor.describe().set] or all
  return own and {own[1], own[2]}
end

-- id: r50-train-480-f32. targets: {must, goal} of time, {must, goal} of memory or nil.
local function model_row(short, work, size, batch, precision, runs, time, memory)
  local o = {model = models[short], work = work, size = size, batch = batch, precision = precision, runs = runs}
  return {
    id = ('%s-%s-%d-%s'):format(short, work, size, precision), kind = 'seconds', work = o, time = targets(time),
    memory = targets(memory),
    text = text_of(short, work, size, batch, precision),
    ours = run.dlv3(('bench --model %s --work %s --size %d --batch %d --precision %s --runs %d'):format(
        o.model, work, size, batch, precision, runs)),
    peers = model_peers(o),
  }
end

-- -- The input pipeline, and starting -------------------------------------------------------------

local function data_row(o)
  local words = ('--data-path %s --split %s --runs 1'):format(run.quote(o.data_path), o.split)
  return {
    id = 'data', kind = 'rate', time = {3, 4}, text = ('input pipeline, samples a second and core (%s)'):format(
        o.data_name),
    ours = run.dlv3('bench_data ' .. words), peers = {{name = 'torchvision + Pillow', script = 'torch_data.py',
                                                       words = words}},
  }
end

local function start_rows(o)
  return {
    {id = 'start', kind = 'start', time = {50, 200}, text = 'start to a ready prompt', repeats = 5,
     ours = run.dlv3 '-i -e "require \'dlv3\'; require \'models\'" </dev/null',
     peers = {{name = 'PyTorch', words = '-i -c "import torch, torchvision" </dev/null'}}},
    {id = 'predict', kind = 'start', time = targets{15, 30, avx512_bf16 = {20, 30}},
     text = 'start to the first MobileNetV3 class map of a photo', repeats = 3,
     ours = run.dlv3(('predict --quiet --weights %s --output-dir %s %s'):format(
         run.quote(o.weights), run.quote(run.scratch .. '/predicted'), run.quote(o.photo))),
     peers = {{name = 'PyTorch', script = 'torch_predict.py',
               words = ('%s %s %s'):format(run.quote(o.weights), run.quote(o.photo),
                                           run.quote(run.scratch .. '/predicted/peer.png'))}}},
  }
end

-- The whole loop of predict over photos of many sizes, after the start: decode, resize, network,
-- classes, PNG.
local function photos_row(o)
  local model, file, output = models.mbv3, run.scratch .. '/mobilenet_v3_any_size.onnx',
      run.quote(run.scratch .. '/predicted')
  return {
    id = 'photos', kind = 'rate', time = targets{1.3, 2},
    text = ('MobileNetV3 inference on photos of %d sizes, whole predict loop, images a second'):format(o.photo_sizes),
    ours = run.dlv3(('predict --quiet --weights %s --output-dir %s %s'):format(
        run.quote(o.weights), output, run.quote(o.photos))),
    peers = {{
      name = 'ONNX Runtime + Pillow', script = 'onnx_predict.py',
      words = ('--onnx %s --photos %s --output-dir %s'):format(run.quote(file), run.quote(o.photos), output),
      needs = {file = file, script = 'export_onnx.py',
               words = ('--model %s --any-size --size 520 --output %s'):format(model, run.quote(file))},
    }},
  }
end

-- o: data_path, data_name, split, photo, photos (a folder of photo_sizes of them, each of another
-- size), weights.
function M.list(o)
  local memory = {0.65, 0.5}
  local list = {
    model_row('r50', 'infer', 480, 1, 'f32', 3, {1.05, 1.3, avx512_bf16 = {1.25, 1.4}}, {0.4, 0.3}),
    model_row('r50', 'infer', 480, 1, 'bf16', 3, {1.0, 1.08, avx512_bf16 = {1.05, 1.2}}, {0.4, 0.3}),
    model_row('mbv3', 'infer', 480, 1, 'f32', 15, {1.1, 1.4, avx512_bf16 = {1.3, 1.6}}),
    model_row('mbv3', 'infer', 480, 1, 'bf16', 15, {1.1, 1.25, avx512_bf16 = {1.1, 1.4}}),
    model_row('r50', 'train', 480, 2, 'f32', 2, {1.3, 1.6, avx512_bf16 = {1.6, 1.9}}, {0.5, 0.4}),
    model_row('r50', 'train', 480, 2, 'bf16', 2, {1.15, 1.35, avx512_bf16 = {1.3, 1.5}}, {0.5, 0.4}),
    model_row('r50', 'train', 240, 4, 'f32', 3, {1.25, 1.6, avx512_bf16 = {1.5, 1.8}}, memory),
    model_row('r50', 'train', 240, 4, 'bf16', 3, {1.2, 1.4, avx512_bf16 = {1.3, 1.5}}, memory),
    model_row('mbv3', 'train', 240, 4, 'f32', 8, {2, 3, avx512_bf16 = {2.6, 3.5}}, memory),
    model_row('mbv3', 'train', 240, 4, 'bf16', 8, {2.5, 4, avx512_bf16 = {3.3, 4.5}}, memory),
    data_row(o),
    photos_row(o),
  }
  for _, row in ipairs(start_rows(o)) do list[#list + 1] = row end
  return list
end

-- -- On a GPU -------------------------------------------------------------------------------------

local gpu_modes = {
  nchw = 'PyTorch nchw, TF32', channels_last = 'PyTorch channels last, TF32', compiled = 'PyTorch compiled, TF32',
  bf16 = 'PyTorch channels last, autocast', bf16_compiled = 'PyTorch compiled, autocast',
  bf16_max_autotune = 'PyTorch compiled for long, autocast',
}

-- One wait for the device in STEPS steps, on both sides.
local STEPS = 10

-- The kinds of rows, by the last word of their ids.
local said = {eager = '', compiled = ', PyTorch compiled', autotune = ', PyTorch compiled for long',
              order = ', in one order or any', engines = ', engines timed or not'}

-- cuDNN's engines by timing, as the peers choose theirs, and kept in a file.
local timed = ('DLV3_CUDNN_BENCHMARK=1 DLV3_CACHE=%s '):format(run.quote(run.scratch .. '/engines'))

-- A row of M.of_gpu. A first process of dlv3 times the engines, which costs it time and memory, and
-- another is measured.
local function gpu_row(r)
  local what = ('--model %s --work %s --size %d --batch %d --device %s --steps %d --runs '):format(
      models[r.short], r.work, r.size, r.batch, r.device, r.steps or STEPS)
  local runs, peers = r.runs or 5, {}
  for i, mode in ipairs(r.modes or {}) do
    peers[i] = {name = gpu_modes[mode], script = 'torch_peer.py', words = ('%s%d --mode %s'):format(what, runs, mode)}
  end
  local dlv3 = run.dlv3(('bench --precision %s %s'):format(r.precision, what))
  for _, other in ipairs(r.others or {}) do
    peers[#peers + 1] = {name = other[1], command = other[2] .. dlv3 .. runs}
  end
  return {
    id = ('%s-%s-%d-b%d-%s-%s'):format(r.short, r.work, r.size, r.batch, r.precision, r.kind), kind = 'seconds',
    time = r.time, memory = r.memory,
    text = text_of(r.short, r.work, r.size, r.batch, r.precision) .. said[r.kind],
    first = timed .. dlv3 .. 1, ours = timed .. dlv3 .. runs, peers = peers,
  }
end

-- The rows of a GPU, the most telling first: PyTorch as most people run it, then compiled, which
-- takes it minutes, then dlv3 beside itself. The targets are those of an H200. change: size, batch,
-- steps, runs instead of theirs, for a rehearsal.
function M.of_gpu(device, change)
  local memory, compiled = {0.8, 0.65}, {'bf16_compiled'}
  local any_order, untimed = {{'dlv3, any order', 'DLV3_NONDETERMINISTIC=1 ' .. timed}}, {{'dlv3, first engines', ''}}
  local list = {
    {short = 'r50', work = 'train', size = 480, batch = 16, precision = 'bf16', kind = 'eager', modes = {'bf16'},
     time = {1.2, 1.5}, memory = memory},
    {short = 'r50', work = 'train', size = 480, batch = 4, precision = 'bf16', kind = 'eager', modes = {'bf16'},
     time = {1.4, 1.8}, memory = memory},
    {short = 'mbv3', work = 'train', size = 480, batch = 16, precision = 'bf16', kind = 'eager', modes = {'bf16'},
     time = {1.5, 2}, memory = memory},
    {short = 'r50', work = 'infer', size = 520, batch = 8, precision = 'bf16', kind = 'eager', modes = {'bf16'},
     time = {1.4, 1.9}},
    {short = 'r50', work = 'infer', size = 520, batch = 1, precision = 'bf16', kind = 'eager', modes = {'bf16'},
     time = {1.7, 2.3}},
    {short = 'r50', work = 'train', size = 480, batch = 4, precision = 'f32', kind = 'eager',
     modes = {'nchw', 'channels_last'}, memory = memory},
    {short = 'r50', work = 'train', size = 480, batch = 16, precision = 'bf16', kind = 'compiled', modes = compiled,
     time = {1.1, 1.3}},
    {short = 'r50', work = 'infer', size = 520, batch = 8, precision = 'bf16', kind = 'compiled', modes = compiled,
     time = {1.4, 1.9}},
    {short = 'r50', work = 'infer', size = 520, batch = 1, precision = 'bf16', kind = 'compiled', modes = compiled,
     time = {1.7, 2.3}},
    {short = 'r50', work = 'train', size = 480, batch = 4, precision = 'f32', kind = 'compiled', modes = {'compiled'}},
    {short = 'r50', work = 'train', size = 480, batch = 16, precision = 'bf16', kind = 'autotune',
     modes = {'bf16_max_autotune'}, time = {1.1, 1.3}},
    {short = 'r50', work = 'train', size = 480, batch = 16, precision = 'bf16', kind = 'engines', others = untimed},
    {short = 'r50', work = 'train', size = 480, batch = 16, precision = 'bf16', kind = 'order', others = any_order,
     time = {1 / 1.15, 1}},
  }
  for i, r in ipairs(list) do
    r.device = device
    for key, value in pairs(change or {}) do r[key] = value end
    list[i] = gpu_row(r)
  end
  return list
end

return M
