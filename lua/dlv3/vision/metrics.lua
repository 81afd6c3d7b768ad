-- metrics.lua - segmentation quality from a confusion matrix: the reference's figures, and ones
-- that bear absent classes.

local tensor = require 'dlv3.core.tensor'
local log = require 'dlv3.train.log'
local text = require 'dlv3.core.text'

local M = {}

local Confusion = {}
Confusion.__index = Confusion

-- Counts of n classes, on the device of the predictions: row = ground truth, column = prediction.
function M.confusion(n, device)
  return setmetatable({n = n, hist = tensor.zeros({n, n}, {dtype = 'i64', device = device})}, Confusion)
end

-- Adds predictions and targets, both u8 [b,h,w]; targets outside the classes (255) do not count.
function Confusion:update(prediction, target) prediction:confusion_matrix(target, self.hist) end

-- The reference's arithmetic: counts, ratios and lists of percentages in f32, the two single
-- percentages in f64 from f32 ratios; 0 / 0 is nan.
function Confusion:compute()
  local h = self.hist:to('cpu', 'f32')
  local diagonal = (h * tensor.eye(self.n)):sum(2)
  local rows, columns = h:sum(2), h:sum(1)
  local function percent(t) return (t * 100):totable() end
  local union = rows + columns - diagonal
  local result = {correct = (diagonal:sum() / h:sum()):item() * 100, rows = percent(diagonal / rows),
                  ious = percent(diagonal / union),
                  mean = (diagonal / union):mean():item() * 100, truth = rows:totable(), predicted = columns:totable()}
  local sum, present = 0, 0
  for i, iou in ipairs(result.ious) do
    if result.truth[i] > 0 then sum, present = sum + iou, present + 1 end
  end
  result.present = present
  result.mean_present = present > 0 and sum / present or 0 / 0 -- over the classes that the targets have
  return result
end

-- The four lines of the reference.
function M.reference_text(r) return log.metrics(r.correct, r.rows, r.ious, r.mean) end

-- One line a class with its name. Classes without a pixel in the targets are marked and left out of
-- the mean below.
function M.table_text(r, names)
  local all = 0
  for _, n in ipairs(r.truth) do all = all + n end
  local rows = {{'', 'class', 'IoU %', 'recall %', 'pixels %'}}
  for i, iou in ipairs(r.ious) do
    local absent = r.truth[i] == 0
    rows[#rows + 1] = {i - 1, names and names[i] or 'class ' .. i - 1, absent and '-' or text.number('%.1f', iou),
                       absent and '-' or text.number('%.1f', r.rows[i]),
                       absent and (r.predicted[i] > 0 and 'absent (predicted)' or 'absent')
                           or text.number('%.2f', r.truth[i] / all * 100)}
  end
  return text.columns(rows, 'rlrrr')
end

-- Names of n classes: the data set's, whose number must fit; without any, VOC's for VOC's own data,
-- and for others where nothing but the number of classes says so: then the second result is a
-- sentence that says it. nil: no names.
function M.class_names(set, n)
  local voc = require 'dlv3.data.voc'
  if set and set.class_names then
    voc.check_names(set.class_names, set.class_names_path or 'class_names.txt', n)
    return set.class_names
  end
  if n ~= #voc.classes then return nil end
  if set and voc.is_voc(set) then return voc.classes end
  return voc.classes, 'class names: those of PASCAL VOC, since there are 21 classes and no class_names.txt'
end

return M
