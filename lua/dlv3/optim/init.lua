-- optim - SGD over flat arenas, learning-rate schedules, gradient clipping, and the loss scale of
-- f16 (LossScaler).

local names = require 'dlv3.core.names'
local schedule = require 'dlv3.optim.schedule'

local optim = {
  SGD = require 'dlv3.optim.sgd',
  LossScaler = require 'dlv3.optim.scaler',
  clip_grad_norm_ = require 'dlv3.optim.clip',
  poly = schedule.poly, multistep = schedule.multistep, cosine = schedule.cosine, constant = schedule.constant,
}

return names.strict(optim, "optim has no '%s'", true)
