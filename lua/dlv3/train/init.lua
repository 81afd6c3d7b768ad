-- train - what scripts that train and evaluate share. The loop is in train/run.lua and
-- train/loop.lua.

local data = require 'dlv3.data'
local F = require 'dlv3.core.ffi'
local finite = require 'dlv3.train.finite'
local state = require 'dlv3.train.state'

local M = {
  evaluate = require 'dlv3.train.evaluate',
  late = require 'dlv3.train.late',
  save = state.save, load = state.load, inherit = state.inherit, restore_model = state.restore_model,
  restore = state.restore, note = state.note,
  non_finite = finite.non_finite, check_finite = finite.check_finite,
  -- Options that several scripts have.
  precisions = {'f32', 'bf16', 'f16'},
  weights_key_doc = 'the part of the --weights file to take, such as model_ema (without it: the first of model, '
                    .. 'state_dict, ... with weights)',
  skip_damaged_option = {
    'skip-damaged', false,
    'leave out photos and masks that are damaged, and list them: every file is decoded once before the start',
  },
}

-- A data set without its damaged photos and masks, which are printed.
function M.skip_damaged(set, workers)
  print(('%s: decoding %d samples to find damaged ones'):format(set.list, set.size))
  local rest, messages = data.skip_damaged(set, {workers = workers})
  if #messages > 0 then
    local list = table.concat(messages, '\n  ')
    print(F.printable(('%d of %d samples are damaged and left out:\n  %s'):format(#messages, set.size, list)))
  end
  return rest
end

return M
