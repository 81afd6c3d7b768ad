-- test_bench.lua - the benchmark: useful operations counted, one work, the comparison with dlv3
-- alone.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local convolutions = require 'bench.convolutions'
local processor = require 'bench.processor'
local report = require 'bench.report'

return function(t)
  local bench = require('dlv3.host').executable .. ' bench '

  t.case('taps on padding do not count', function()
    local c = {n = 2, cin = 3, cout = 5, h = 4, w = 6, out_h = 4, out_w = 6, kernel = {3, 3},
               options = {stride = {1, 1}, padding = {2, 2}, dilation = {2, 2}, groups = 1}}
    t.eq(convolutions.flops(c), 2 * 2 * 3 * 5 * (2 + 4 + 2) * (4 + 6 + 4))
    c.options.padding, c.options.dilation = {36, 36}, {36, 36} -- only the middle tap is left
    t.eq(convolutions.flops(c), 2 * 2 * 3 * 5 * 4 * 6)
  end)

  t.case('the convolutions of a model', function()
    local model = require 'models'.deeplabv3_mobilenet_v3_large{num_classes = 21}
    local calls = convolutions.calls(model, dlv3.zeros{1, 3, 48, 48})
    local modules = 0
    for _, m in model:named_modules() do modules = modules + (m.class_name == 'Conv2d' and 1 or 0) end
    t.eq(#calls, modules)
    t.eq(calls[1].name, 'backbone.0.0')
    t.eq(calls[1].flops, 2 * 16 * 3 * (24 * 3 - 1) ^ 2)
    local n = 0
    for _, c in ipairs(convolutions.distinct(calls)) do n = n + c.count end
    t.eq(n, #calls)
    t.eq(convolutions.total(calls, true), 3 * convolutions.total(calls, false) - calls[1].flops)
  end)

  t.case('the peak', function()
    local peak = runtime.measure_peak('f32')
    t.ok(peak == 0 or peak > 1e9 and peak < 1e15, peak)
  end)

  t.case('one work', function()
    for _, words in ipairs {'--work infer', '--work train --precision bf16'} do
      local text, status = t.run(bench .. words .. ' --size 33 --batch 2 --runs 2')
      t.eq(status, 0, text)
      t.ok(text:find '^dlv3 %S+ %S+: [%d.]+ s %([%d.]+ to [%d.]+%), peak %d+ MiB', text)
    end
  end)

  t.case('what a row of a GPU runs', function()
    local gpu = dofile(t.directory .. '/gpu.lua')(t)
    local reason = gpu.missing()
    if reason then t.skip(reason) end
    local seen = {}
    for _, row in ipairs(require 'bench.rows'.of_gpu('cuda')) do
      t.ok(not seen[row.id], row.id)
      seen[row.id] = true
    end
    local function shown(environment, words)
      local text, status = t.run(("DLV3_CUDA_LIBRARY='%s' %s %s --device cuda %s"):format(
          gpu.library, environment, bench, words))
      t.eq(status, 0, text)
      return text
    end
    local path = t.folder() .. '/gpu.md'
    shown('', '--no-peers --rounds 1 --rows mbv3 --size 17 --batch 2 --steps 1 --runs 1 --output ' .. path)
    local file = assert(io.open(path))
    local text = file:read '*a'
    file:close()
    t.ok(text:find '\n| MobileNetV3 training step 17, batch 2, bf16 | [%d.]+ s ' and text:find 'DLV3_CUDNN_BENCHMARK=1',
         text)
    t.ok(shown('', '--no-peers --rounds 1 --rows mbv3 --limit 1 --size 65'):find 'failed: it took longer than 1 s')
    local words = '--work infer --precision bf16 --size 17 --batch 2 --steps 2 --runs 1'
    t.ok(shown('', words):find '^dlv3 %S+ bf16 cuda: [%d.]+ s %([%d.]+ to [%d.]+%), peak %d+ MiB, tensors %d+ MiB\n')
    local row = {text = 'a row', kind = 'seconds', peers = {},
                 ours = ("DLV3_GRAPH=0 DLV3_CUDA_LIBRARY='%s' %s --device cuda %s"):format(gpu.library, bench, words)}
    require 'bench.compare'.row(row, 1)
    t.eq(row.text, 'a row; not one CUDA graph: none was asked for')
  end)

  t.case('the peer in PyTorch, several steps a run', function()
    local python, reason = t.python('torch', 'torchvision')
    if not python then t.skip(reason) end
    for _, words in ipairs {'--work train --mode nchw', '--work infer --mode channels_last'} do
      local text, status = t.run(("%s '%s/bench/torch_peer.py' %s --size 33 --batch 2 --steps 2 --runs 1"):format(
          python, require('dlv3.host').root, words))
      t.eq(status, 0, text)
      t.ok(text:find 'PyTorch [^\n]+: [%d.]+ s %([%d.]+ to [%d.]+%), peak %d+ MiB', text)
    end
  end)

  t.case('ops by themselves', function()
    local text, status = t.run(bench .. '--ops --model deeplabv3_mobilenet_v3_large --work infer --size 33 --batch '
                                        .. '1 --seconds 0.001 --precision f32')
    t.eq(status, 0, text)
    t.ok(text:find('\nall of the model ', 1, true), text)
    t.ok(text:find '\nbatch_norm and its gradient%s+[%d.]+%s+[%d.]+\n', text)
    local three = bench
        .. '--ops --model deeplabv3_mobilenet_v3_large --size 33 --batch 1 --seconds 0.001 --precision f32 --only '
    text = t.run(three .. "'3x3 rate'")
    t.ok(text:find '\n960>256 3x3 rate 36 on 3x3 +by weight' and not text:find('1x1', 1, true)
         and not text:find('GB/s', 1, true), text)
    t.ok(t.run(three .. 'nothing'):find "no convolution has 'nothing'")
  end)

  t.case('the comparison without peers', function()
    local path = t.folder() .. '/results.md'
    local text, status = t.run(bench .. '--quick --no-peers --rows start --output ' .. path)
    t.eq(status, 0, text)
    t.ok(text:find('| start to a ready prompt | 0.', 1, true), text)
    local file = assert(io.open(path))
    local results = file:read '*a'
    t.ok(results:find '^# Measured\n' and results:find('<!-- begin ' .. processor.describe().kind .. ' -->', 1, true),
         results)
    file:close()
    text, status = t.run(bench .. '--rows strat')
    t.eq(status, 1)
    t.ok(text:find 'no row has such a word %(there are: r50%-infer%-480%-f32,', text)
  end)

  t.case('the kind of a processor', function()
    local text = 'vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: '
                 .. 'fpu avx2 avx512f'
    t.eq(processor.describe(text .. ' avx512_bf16 end\n').kind, 'amd-25-17-avx512_bf16')
    t.eq(processor.describe(text .. 'x\n').kind, 'amd-25-17-avx2')
    t.eq(processor.describe(text .. '\n').kind, 'amd-25-17-avx512')
    t.eq(processor.describe 'nothing known\n'.kind, 'other-0-0-plain')
  end)

  t.case('a kind of processor has one part of the results, others stay', function()
    local text = report.placed(nil, 'one', 'first\n')
    t.ok(text:find '^# Measured\n' and text:find('\n<!-- begin one -->\nfirst\n<!-- end one -->\n', 1, true), text)
    local both = report.placed(text .. 'a note\n', 'two', 'second\n')
    t.eq(report.placed(both, 'one', 'third\n'), (both:gsub('first', 'third')))
    t.eq(report.placed(both, 'two', 'second\n'), both)
  end)

  t.case('the committed table and a worse one', function()
    local root, folder = require('dlv3.host').root, t.folder()
    local function table_of(name, speed, memory)
      local row = {id = 'a-row', kind = 'seconds', ours = {value = 1, rss = memory},
                   best = {name = 'ONNX Runtime', value = speed}, least_rss = {name = 'PyTorch', rss = 100}}
      local file = assert(io.open(folder .. '/' .. name, 'w'))
      file:write(report.medians({row, {id = name, kind = 'rate'}}, 'a-kind'))
      file:close()
      return ("'%s/%s'"):format(folder, name)
    end
    local old = table_of('old.tsv', 2, 50)
    local function check(new) return t.run(("'%s/scripts/build/bench_check' %s %s"):format(root, new, old)) end
    local text, status = check(table_of('same.tsv', 1.92, 52))
    t.eq(status, 0, text)
    t.ok(text:find('1 rows compared, 0 regressions of more than 5 %', 1, true), text)
    text, status = check(table_of('slow.tsv', 1.9, 50))
    t.eq(status, 1, text)
    t.ok(text:find('a-row: 1.900 times faster than ONNX Runtime, committed 2.000', 1, true), text)
    text, status = check(table_of('large.tsv', 2.5, 53))
    t.eq(status, 1, text)
    t.ok(text:find('a-row: needs 0.530 of the memory of PyTorch, committed 0.500', 1, true), text)
    t.eq(select(2, check "'/nowhere.tsv'"), 2)
  end)

  t.case("predict's line is a figure of the comparison", function()
    local m = require 'bench.run'.measure "echo 'a model: 30 photos in 2.5 s, 12.25 photos/s, to pictures/'"
    t.eq(m.value, 12.25)
    t.eq(m.what, 'a model')
  end)
end
