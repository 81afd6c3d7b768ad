-- checkpoint.lua - weights into models, whatever the file wraps them in and whatever it was trained for; training
-- checkpoints.
--
-- load_weights takes what fits and reports the rest in one block: what has another shape (another number of classes),
-- what the file lacks, what it has besides. A file in which nothing fits is an error.

local F = require 'dlv3.ffi'
local dict = require 'dlv3.dict'
local files = require 'dlv3.files'

local M = {}

-- -- Finding the state dict in what a file held ------------------------------------------------------------------------

local wrappers = {'model', 'state_dict', 'model_state_dict', 'model_state', 'net', 'network', 'weights', 'module'}

local function is_table(v) return type(v) == 'table' and v ~= dict.none end

local function has_tensors(d)
  for _, v in dict.items(d) do if F.is_tensor(v) then return true end end
  return false
end

local function first_keys(d, n)
  local list = {}
  for k in dict.items(d) do
    list[#list + 1] = tostring(k)
    if #list == n then return table.concat(list, ', ') .. ', ...' end
  end
  return #list > 0 and table.concat(list, ', ') or 'none'
end

-- The dict of tensors in value, at most `depth` wrappers deep, and the path of keys to it ("model"). A wrapper goes before the
-- tensors beside it, such as a best accuracy.
local function inner_dict(value, depth, way)
  if not is_table(value) then return nil end
  for _, key in ipairs(depth > 0 and wrappers or {}) do
    local found, path = inner_dict(value[key], depth - 1, way .. (way == '' and '' or '.') .. key)
    if found then return found, path end
  end
  if has_tensors(value) then return value, way end
end

local function unwrap(value, path)
  local found, way = inner_dict(value, 3, '')
  if found then return found, way end
  F.raise(path .. ': holds no weights: ' .. (is_table(value) and 'its keys are ' .. first_keys(value, 8) or 'it is a ' .. type(value)))
end
M.unwrap = unwrap

-- Without what DistributedDataParallel and torch.compile put in front.
local function bare(name)
  local before
  repeat
    before = name
    name = name:gsub('^module%.', ''):gsub('^_orig_mod%.', '')
  until name == before
  return name
end
M.bare = bare

-- -- Names --------------------------------------------------------------------------------------------------------------

-- The ways in which a file's names can be a model's; a name for which fn returns nil has no place in the model.
local mappings = {
  {fn = function(name) return name end},
  {text = "names put under 'backbone.'", fn = function(name) return 'backbone.' .. name end},
  {text = "'features.' as 'backbone.'", fn = function(name) local rest = name:match '^features%.(.*)$' return rest and 'backbone.' .. rest end},
  {text = "the part under 'model.'", fn = function(name) return name:match '^model%.(.*)$' end}, -- Lightning's checkpoints
  {text = "the part under 'backbone.'", fn = function(name) return name:match '^backbone%.(.*)$' end},
  {text = "the part under 'backbone.' as 'features.'", fn = function(name) local rest = name:match '^backbone%.(.*)$' return rest and 'features.' .. rest end},
}

-- The mapping that finds most names in the model: the first of equals.
local function best_mapping(names, own, prefix)
  if prefix then
    return {text = prefix ~= '' and ("names put under '%s'"):format(prefix) or nil, fn = function(name) return prefix .. name end}
  end
  local best, most = mappings[1], -1
  for _, m in ipairs(mappings) do
    local n = 0
    for _, name in ipairs(names) do
      local mapped = m.fn(name)
      if mapped and own[mapped] then n = n + 1 end
    end
    if n > most then best, most = m, n end
  end
  return best
end

local function module_of(name) return name:match '^(.*)%.[^.]*$' or '' end

-- -- The report ---------------------------------------------------------------------------------------------------------

local Report = {}
Report.__index = Report

local function shape(t) return '[' .. table.concat(t:size(), ', ') .. ']' end

-- Names one by one when they are few, else by their first part: "classifier.* (44)".
local function names_text(names)
  if #names <= 6 then return table.concat(names, ', ') end
  local groups, order, parts = {}, {}, {}
  for _, name in ipairs(names) do
    local first = name:match '^[^.]*'
    if not groups[first] then order[#order + 1] = first end
    groups[first] = (groups[first] or 0) + 1
  end
  for i, first in ipairs(order) do
    if i > 8 then
      parts[i] = '...'
      break
    end
    parts[i] = ('%s.* (%d)'):format(first, groups[first])
  end
  return table.concat(parts, ', ')
end

-- One readable block.
function Report:text()
  local notes = {}
  if self.inside ~= '' then notes[1] = "its '" .. self.inside .. "'" end
  if self.mapping then notes[#notes + 1] = self.mapping end
  local lines = {('%s: loaded %d of the model\'s %d tensors%s'):format(self.path, #self.loaded, self.total, #notes > 0 and ' (' .. table.concat(notes, ', ') .. ')' or '')}
  if #self.skipped > 0 then
    lines[#lines + 1] = ('  skipped %d that do not fit:'):format(#self.skipped)
    local width = 0
    for _, s in ipairs(self.skipped) do width = math.max(width, #s.name) end
    for i, s in ipairs(self.skipped) do
      if i > 12 then
        lines[#lines + 1] = ('    ... and %d more'):format(#self.skipped - 12)
        break
      end
      lines[#lines + 1] = ('    %-' .. math.min(width, 60) .. 's  %s'):format(s.name, s.reason)
    end
  end
  if #self.missing > 0 then lines[#lines + 1] = ('  not in the file, left as they were: %d: %s'):format(#self.missing, names_text(self.missing)) end
  if #self.unexpected > 0 then lines[#lines + 1] = ('  in the file but not in the model: %d: %s'):format(#self.unexpected, names_text(self.unexpected)) end
  return table.concat(lines, '\n')
end
Report.__tostring = Report.text

-- -- Loading ------------------------------------------------------------------------------------------------------------

-- Sorts the file's tensors into what fits (a dict by the model's names) and the lists of the report.
local function sort_out(given, own, mapping, report)
  local candidates, unfit = dict.new(), {}
  for name, t in dict.items(given) do
    local target = type(name) == 'string' and mapping.fn(bare(name))
    local mine = target and own[target]
    if not mine or not F.is_tensor(t) then report.unexpected[#report.unexpected + 1] = tostring(name)
    else
      candidates[target] = t
      if shape(mine) ~= shape(t) then
        unfit[module_of(target)] = target
        report.skipped[#report.skipped + 1] = {name = target, file = t:size(), model = mine:size(), reason = ('file %s, model %s'):format(shape(t), shape(mine))}
      end
    end
  end
  -- a layer is taken whole or not at all: no bias without its weight
  local fitting = dict.new()
  for name, t in dict.items(candidates) do
    local other = unfit[module_of(name)]
    if not other then fitting[name] = t:to(own[name].dtype)
    elseif shape(own[name]) == shape(t) then
      report.skipped[#report.skipped + 1] = {name = name, file = t:size(), model = t:size(), reason = 'goes with ' .. other}
    end
  end
  return fitting, candidates
end

-- Gives the model the tensors themselves, and takes them out of the dict: those that lie as the model's do and that
-- nothing else in the dict shares memory with. The rest is left to be copied.
local function take(model, fitting)
  local users = {}
  local function address(t) return tonumber(F.C.dlv3_tensor_address(t.p)) end
  for _, t in dict.items(fitting) do users[address(t)] = (users[address(t)] or 0) + 1 end
  for _, kind in ipairs {'named_parameters', 'named_buffers'} do
    for name, own in model[kind](model) do
      local t = fitting[name]
      if t and own.dtype == t.dtype and own.device == t.device and t:is_contiguous() and users[address(t)] == 1 then
        F.check(F.C.dlv3_tensor_assign(own.p, t.p))
        fitting[name] = nil
      end
    end
  end
end

-- Loads weights into a model: source is a file's name or a dict. What fits is copied, the rest is reported.
-- options: prefix = what to put before the file's names (default: whatever fits best, such as 'backbone.' for the
-- ImageNet files of classifiers), name = what to call a dict in messages, take = the model may keep the dict's own
-- tensors instead of copies.
-- Returns a report: loaded, missing, unexpected (lists of names), skipped (list of {name, reason, file, model}); as
-- text it is one block.
function M.load_weights(model, source, options)
  options = options or {}
  for k in pairs(options) do
    if k ~= 'prefix' and k ~= 'name' and k ~= 'take' then F.raise(("load_weights: no option '%s' (has: prefix, name, take)"):format(tostring(k))) end
  end
  local path = type(source) == 'string' and source or options.name or 'the given weights'
  local given, inside = unwrap(type(source) == 'string' and files.load(source) or source, path)
  local own, names = model:state_dict(), {}
  for name in dict.items(given) do if type(name) == 'string' then names[#names + 1] = bare(name) end end
  local mapping = best_mapping(names, own, options.prefix)
  local report = setmetatable({path = path, inside = inside, mapping = mapping.text, total = dict.size(own), loaded = {}, skipped = {}, missing = {}, unexpected = {}}, Report)
  local fitting, candidates = sort_out(given, own, mapping, report)
  if dict.size(fitting) == 0 then
    F.raise(('%s: nothing in it fits the model%s\n  the file has   %s\n  the model has  %s'):format(path,
      #report.skipped > 0 and (': %d tensors have the right names but other shapes, first %s: %s'):format(#report.skipped, report.skipped[1].name, report.skipped[1].reason) or '',
      first_keys(given, 4), first_keys(own, 4)))
  end
  local share = dict.size(fitting) / math.min(dict.size(own), #names)
  if share < 0.25 and not options.prefix then
    F.raise(('%s: the weights of another architecture: only %d of its %d tensors fit the model\n  the file has   %s\n  the model has  %s\n'
             .. "  (in a script, checkpoint.load_weights(model, path, {prefix = ''}) takes them all the same)"):format(path, dict.size(fitting), #names, first_keys(given, 4), first_keys(own, 4)))
  end
  for name in dict.items(own) do
    if fitting[name] then report.loaded[#report.loaded + 1] = name
    elseif not candidates[name] and not name:find 'num_batches_tracked$' then report.missing[#report.missing + 1] = name end
  end
  if options.take then take(model, fitting) end
  model:load_state_dict(fitting, {strict = false})
  return report
end

-- -- Training checkpoints -------------------------------------------------------------------------------------------------

-- Everything to go on from: any dict of values and tensors, usually with the keys model, optimizer, lr_scheduler, epoch
-- and args, as PyTorch scripts have them. The path holds the old checkpoint or the new one at any moment.
function M.save(path, value) files.save(path, value) end

-- A training checkpoint: a dict with at least `model`. A file of bare weights is an error that says so.
function M.load(path)
  local value = files.load(path)
  if is_table(value) and is_table(value.model) then return value end
  if is_table(value) and has_tensors(value) then
    F.raise(path .. ': holds weights but no state of a training to go on from: start a new training with them (--weights)')
  end
  F.raise(path .. ': is no training checkpoint: ' .. (is_table(value) and 'its keys are ' .. first_keys(value, 8) or 'it is a ' .. type(value)))
end

return M
