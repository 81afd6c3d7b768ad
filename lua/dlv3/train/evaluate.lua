-- evaluate.lua - train.evaluate: the figures of a model over a data set.

local dlv3 = require 'dlv3'
local log = require 'dlv3.train.log'
local metrics = require 'dlv3.vision.metrics'
local system = require 'dlv3.os'

-- Of images x to their class maps; found_inf becomes 1 where a score is nan or infinite.
local function class_maps(model, found_inf, compile)
  local function classes_of(x)
    local logits = model:logits(x, {aux = false}).out
    found_inf:amp_non_finite_check_(logits)
    return logits:upsample_argmax{size = {x:size(3), x:size(4)}}
  end
  return compile and dlv3.compile(classes_of) or classes_of
end

-- The batches of a loader, with the reference's `Test:` lines where log is set.
local function batches_of(loader, progress, with_log)
  local batches = loader:epoch(0)
  if not with_log then return batches end
  local function write(line)
    progress:done()
    log.line(line)
  end
  return log.logger{write = write}:every({total = #loader, print_freq = 100, header = 'Test:'}, batches)
end

-- evaluate(model, loader, num_classes, {device = 'cpu', quiet, log, compile}): the figures of a
-- model, which is set to eval mode, over a loader of single, uncropped images (metrics.lua's table,
-- and finite: whether every score was); nil where a caught signal ended it. num_classes counts the
-- background. quiet: no progress line; log: the reference's `Test:` lines; compile: the network is
-- recorded and replayed.
return function(model, loader, num_classes, options)
  options = options or {}
  local device = options.device or 'cpu'
  local confusion = metrics.confusion(num_classes, options.device)
  local progress = log.progress{label = 'validate', total = #loader, unit = 'images', quiet = options.quiet}
  local batches = batches_of(loader, progress, options.log)
  local found_inf = dlv3.zeros({}, {device = options.device})
  local classes_of = class_maps(model, found_inf, options.compile)
  model:eval()
  for batch in batches do
    dlv3.scope(function()
      dlv3.no_grad(function() confusion:update(classes_of(batch.image:to(device)), batch.target:to(device)) end)
    end)
    batch.image:release()
    batch.target:release()
    progress:step()
    if system.pending_signal() then
      progress:done()
      return nil
    end
  end
  progress:done()
  local figures = confusion:compute()
  figures.finite = found_inf:item() == 0
  return figures
end
