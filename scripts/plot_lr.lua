-- plot_lr.lua - draws learning-rate schedules: built-in ones, or one from a Lua file that returns a
-- function.

local F = require 'dlv3.core.ffi'
local files = require 'dlv3.io.files'
local optim = require 'dlv3.optim'
local options = require 'dlv3.cli.options'
local suggest = require 'dlv3.core.suggest'
local plot = require 'dlv3.vision.plot'

local opt = options.parse({
  doc = 'Draws the learning rate over the steps of a training, as a PNG with axes.',
  {'schedule', 'poly', 'poly, multistep, cosine, constant; or a Lua file that returns a function: step -> factor',
   value = 'NAME|FILE'},
  {'lr', 1e-4, 'base learning rate', type = 'number'},
  {'epochs', 30, 'epochs', min = 1},
  {'steps-per-epoch', 366, 'steps an epoch', min = 1},
  {'warmup-epochs', 1, 'epochs of warming up', min = 0},
  {'milestones', {20, 26}, 'epochs at which multistep falls'},
  {'output', 'lr.png', 'picture to write', value = 'FILE'},
}, arg)

local makers = {
  poly = function(o) return optim.poly(o) end,
  cosine = function(o) return optim.cosine(o) end,
  multistep = function(o)
    local milestones = {}
    for i, m in ipairs(opt.milestones) do milestones[i] = tonumber(m) end
    return optim.multistep{steps_per_epoch = o.steps_per_epoch, milestones = milestones,
                           warmup_epochs = o.warmup_epochs}
  end,
  constant = function() return optim.constant() end,
}

local schedule
if opt.schedule:find '%.lua$' then
  files.check_output(opt.output, {opt.schedule}, '--output')
  local chunk, message = loadfile(opt.schedule)
  if not chunk then F.raise(message) end
  schedule = chunk()
  if type(schedule) ~= 'function' then
    F.raise(opt.schedule .. ': must return a function from the step to a factor, it returns a ' .. type(schedule))
  end
else
  local make = makers[opt.schedule]
  if not make then
    local names = {'poly', 'multistep', 'cosine', 'constant'}
    options.fail(("no schedule is called '%s'%s (there are: %s; or a .lua file)"):format(opt.schedule,
        suggest.text(opt.schedule, names), table.concat(names, ', ')), arg)
  end
  schedule = make{steps_per_epoch = opt.steps_per_epoch, epochs = opt.epochs, warmup_epochs = opt.warmup_epochs}
end

local x, y = {}, {}
for step = 0, opt.epochs * opt.steps_per_epoch do
  local factor = schedule(step)
  if type(factor) ~= 'number' then
    F.raise(('%s: gives no number but %s at step %d'):format(opt.schedule,
        factor == nil and 'nothing' or 'a ' .. type(factor), step))
  end
  x[#x + 1], y[#y + 1] = step, opt.lr * factor
end
plot.write(opt.output, {{x = x, y = y}}, {title = 'learning rate: ' .. opt.schedule:match '[^/]+$', x_label = 'step',
                                          y_label = 'learning rate', y_min = 0})
print('wrote ' .. opt.output)
