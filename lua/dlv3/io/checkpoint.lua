-- checkpoint.lua - weights into models, whatever the file wraps them in and whatever it was trained
-- for; training checkpoints.
--
-- load_weights takes what fits and reports the rest in one block: what has another shape (another
-- number of classes), what the file lacks, what it has besides. A file in which nothing fits is an
-- error.

local F = require 'dlv3.core.ffi'
local bytes = require 'dlv3.io.bytes'
local dict = require 'dlv3.core.dict'
local expect = require 'dlv3.core.expect'
local files = require 'dlv3.io.files'
local suggest = require 'dlv3.core.suggest'
local opaque = require 'dlv3.io.opaque'

local M = {}

-- -- Finding the state dict in what a file held ---------------------------------------------------

local wrappers = {'model', 'state_dict', 'model_state_dict', 'model_state', 'net', 'network', 'weights', 'module',
                  'params', 'ema_state_dict', 'model_ema',
                  'state_dict_ema', 'params_ema', 'ema'}

local function is_table(v) return dict.is(v) or type(v) == 'table' and not getmetatable(v) end

local function has_tensors(d)
  for _, v in dict.items(d) do if F.is_tensor(v) then return true end end
  return false
end

local function first_keys(d, n)
  local list = {}
  for k in dict.items(d) do
    list[#list + 1] = bytes.shown(k)
    if #list == n then return table.concat(list, ', ') .. ', ...' end
  end
  return #list > 0 and table.concat(list, ', ') or 'none'
end

-- The first four names of a dict, for messages.
function M.first_names(d) return first_keys(d, 4) end

-- The dict of tensors in value, at most `depth` wrappers deep, and the path of keys to it
-- ("model"). A wrapper goes before the tensors beside it, such as a best accuracy.
local function inner_dict(value, depth, way)
  if not is_table(value) then return nil end
  for _, key in ipairs(depth > 0 and wrappers or {}) do
    local found, path = inner_dict(value[key], depth - 1, way .. (way == '' and '' or '.') .. key)
    if found then return found, path end
  end
  if has_tensors(value) then return value, way end
end

-- What a key of the user's choice names: an entry, "a.b" for b in a, or the tensors whose names
-- begin with it and a point.
local function chosen(value, key)
  local found = value[key]
  if found == nil then
    found = value
    for part in key:gmatch '[^.]+' do found = is_table(found) and found[part] or nil end
  end
  if is_table(found) then return found end
  local weights, part = inner_dict(value, 3, ''), dict.new()
  for name, t in dict.items(weights or {}) do
    if type(name) == 'string' and name:sub(1, #key + 1) == key .. '.' then part[name:sub(#key + 2)] = t end
  end
  return next(part) and part
end

-- The keys that lead to weights, or what else there is. key: the one that was asked for, or nil.
local function keys_text(value, key)
  if not is_table(value) then return 'it is a ' .. type(value) end
  local holders = {}
  for k, v in dict.items(value) do if inner_dict(v, 3, '') then holders[#holders + 1] = bytes.shown(k) end end
  if #holders == 0 then return 'its keys are ' .. first_keys(value, 8) end
  return 'weights are in ' .. table.concat(holders, ', ', 1, math.min(#holders, 8))
      .. (key and suggest.text(key, holders) or '')
end
M.keys_text = keys_text

-- Raises that there are no weights in what the file at path held; what: how to say that, key: where
-- they were looked for.
local function no_weights(value, path, what, key)
  for k, v in dict.items(is_table(value) and value or {}) do
    if opaque.is(v) and type(k) == 'string' then
      F.raise(("%s: %s: its '%s' is %s; if it is a model, %s"):format(path, what, k, opaque.text(v),
          opaque.conversion(path, 'torch.load', k)))
    end
  end
  F.raise(('%s: %s: %s (--weights-key NAME says where the weights are)'):format(path, what, keys_text(value, key)))
end

-- The dict of tensors in what the file at path held, and the path of keys to it. key: where to
-- look; default: in the usual places.
local function unwrap(value, path, key)
  if not key then
    local found, way = inner_dict(value, 3, '')
    if not found then no_weights(value, path, 'holds no weights') end
    return found, way
  end
  local found, way = inner_dict(is_table(value) and chosen(value, key), 3, '')
  if not found then no_weights(value, path, ("no weights under '%s'"):format(key), key) end
  return found, way == '' and key or key .. '.' .. way
end
M.unwrap = unwrap

-- Names without what torch.compile and other wrappers of layers put between them.
local function bare(name)
  return (name:gsub('_orig_mod%.', ''):gsub('_fsdp_wrapped_module%.', ''):gsub('_checkpoint_wrapped_module%.', ''))
end

local roots = {backbone = true, classifier = true, aux_classifier = true}

-- What stands before the first of backbone, classifier and aux_classifier in a name, or nil.
local function before_root(name)
  local at = 1
  for part, behind in name:gmatch '([^.]+)%.()' do
    if roots[part] then return name:sub(1, at - 1) end
    at = behind
  end
end

-- What all these names begin with, up to a point; names without one do not count.
local function common_prefix(names)
  local common
  for _, name in ipairs(names) do
    local same = 0
    if not name:find('.', 1, true) then same = nil
    elseif not common then common, same = name, #name
    else
      while same < #common and common:byte(same + 1) == name:byte(same + 1) do same = same + 1 end
    end
    if same then common = common:sub(1, same):match '^.*%.' or '' end
  end
  return common or ''
end

-- What the file puts before the names of the model ("module.", "net.", "ema.model."), or ''.
local function prefix_of(names)
  local counts, best = {}, nil
  for _, name in ipairs(names) do
    local prefix = before_root(name)
    if prefix then
      counts[prefix] = (counts[prefix] or 0) + 1
      if not best or counts[prefix] > counts[best] then best = prefix end
    end
  end
  return best or common_prefix(names)
end

local function without(prefix, name)
  if name:sub(1, #prefix) == prefix then return name:sub(#prefix + 1) end
end

-- The tensors of a model by its own names, and the prefix that the file puts before them.
function M.without_prefix(weights)
  local names, result = {}, dict.new()
  for name in dict.items(weights) do names[#names + 1] = bare(tostring(name)) end
  local prefix = prefix_of(names)
  for name, t in dict.items(weights) do
    name = bare(tostring(name))
    result[without(prefix, name) or name] = t
  end
  return result, prefix
end

-- -- Names ----------------------------------------------------------------------------------------

-- The pattern's capture with `prefix` before it; nil where the name does not match.
local function moved(name, pattern, prefix)
  local rest = name:match(pattern)
  return rest and prefix .. rest
end

-- The ways in which a file's names can be a model's; a name for which fn returns nil has no place
-- in the model.
local mappings = {
  {fn = function(name) return name end},
  {text = "names put under 'backbone.'", fn = function(name) return 'backbone.' .. name end},
  {text = "'features.' as 'backbone.'", fn = function(name) return moved(name, '^features%.(.*)$', 'backbone.') end},
  {text = "the part under 'backbone.'", fn = function(name) return name:match '^backbone%.(.*)$' end},
  {text = "the part under 'backbone.' as 'features.'",
   fn = function(name) return moved(name, '^backbone%.(.*)$', 'features.') end},
}

-- Both of two functions of a name; what the first has no name for has none.
local function after(first, second)
  return function(name)
    name = first(name)
    return name and second(name)
  end
end

-- The mappings with the file's own prefix taken off first, and without.
local function all_mappings(names)
  local prefix, list = prefix_of(names), {unpack(mappings)}
  if prefix == '' then return list end
  local text = ("without the prefix '%s'"):format(bytes.shown(prefix))
  for _, m in ipairs(mappings) do
    list[#list + 1] = {text = text .. (m.text and ', ' .. m.text or ''),
                       fn = after(function(name) return without(prefix, name) end, m.fn)}
  end
  return list
end

-- The mapping that finds most names in the model: the first of equals.
local function best_mapping(names, own, prefix)
  if prefix then
    return {text = prefix ~= '' and ("names put under '%s'"):format(prefix) or nil,
            fn = function(name) return prefix .. name:gsub('^module%.', '') end}
  end
  local best, most = mappings[1], -1
  for _, m in ipairs(all_mappings(names)) do
    local n = 0
    for _, name in ipairs(names) do
      local mapped = m.fn(name)
      if mapped and own[mapped] then n = n + 1 end
    end
    if n > most then best, most = m, n end
    if n == #names then break end
  end
  return best
end

local function module_of(name) return name:match '^(.*)%.[^.]*$' or '' end

-- -- The report -----------------------------------------------------------------------------------

local Report = {}
Report.__index = Report

local function shape(t) return '[' .. table.concat(t:size(), ', ') .. ']' end

-- Names one by one when they are few, else by their first part: "classifier.* (44)".
local function names_text(names)
  local groups, order, parts = {}, {}, {}
  if #names <= 6 then
    for i, name in ipairs(names) do parts[i] = bytes.shown(name) end
    return table.concat(parts, ', ')
  end
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
    parts[i] = ('%s.* (%d)'):format(bytes.shown(first), groups[first])
  end
  return table.concat(parts, ', ')
end

-- One readable block.
function Report:text()
  local notes = {}
  if self.inside ~= '' then notes[1] = "its '" .. self.inside .. "'" end
  if self.mapping then notes[#notes + 1] = self.mapping end
  local lines = {('%s: loaded %d of the model\'s %d tensors%s'):format(self.path, #self.loaded, self.total,
      #notes > 0 and ' (' .. table.concat(notes, ', ') .. ')' or '')}
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
  if #self.missing > 0 then
    lines[#lines + 1] = ('  not in the file, left as they were: %d: %s'):format(#self.missing, names_text(self.missing))
  end
  if #self.unexpected > 0 then
    lines[#lines + 1] = ('  in the file but not in the model: %d: %s'):format(#self.unexpected,
        names_text(self.unexpected))
  end
  return table.concat(lines, '\n')
end
Report.__tostring = Report.text

-- -- Loading --------------------------------------------------------------------------------------

-- Sorts the file's tensors into what fits (a dict by the model's names) and the lists of the
-- report.
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
        report.skipped[#report.skipped + 1] = {name = target, file = t:size(), model = mine:size(),
                                               reason = ('file %s, model %s'):format(shape(t), shape(mine))}
      end
    end
  end
  -- a layer is taken whole or not at all: no bias without its weight
  local fitting = dict.new()
  for name, t in dict.items(candidates) do
    local other = unfit[module_of(name)]
    if not other then fitting[name] = t:to(own[name].dtype)
    elseif shape(own[name]) == shape(t) then
      report.skipped[#report.skipped + 1] = {name = name, file = t:size(), model = t:size(),
                                             reason = 'goes with ' .. other}
    end
  end
  return fitting, candidates
end

-- Gives the model the tensors themselves, and takes them out of the dict: those that lie as the
-- model's do and that nothing else in the dict shares memory with. The rest is left to be copied.
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

local text = expect.optional(expect.text)
local load_spec = {prefix = text, name = text, key = text, take = false}

-- Loads weights into a model: source is a file's name or a dict. What fits is copied, the rest is
-- reported.
-- options: prefix = what to put before the file's names (default: whatever fits best, such as
-- 'backbone.' for the ImageNet files of classifiers), name = what to call a dict in messages, take
-- = the model may keep the dict's own tensors instead of copies, key = which part of a file (its
-- 'model_ema'; default: the first of model, state_dict, ... with weights).
-- Returns a report: loaded, missing, unexpected (lists of names), skipped (list of {name, reason,
-- file, model}); as text it is one block.
function M.load_weights(model, source, options)
  options = expect.options('load_weights', load_spec, options)
  local path = type(source) == 'string' and source or options.name or 'the given weights'
  local given, inside = unwrap(type(source) == 'string' and files.load(source) or source, path, options.key)
  local own, names = model:state_dict(), {}
  for name in dict.items(given) do if type(name) == 'string' then names[#names + 1] = bare(name) end end
  local mapping = best_mapping(names, own, options.prefix)
  local report = setmetatable({path = path, inside = inside, mapping = mapping.text, total = dict.size(own),
                               loaded = {}, skipped = {}, missing = {}, unexpected = {}}, Report)
  local fitting, candidates = sort_out(given, own, mapping, report)
  if dict.size(fitting) == 0 then
    F.raise(('%s: nothing in it fits the model%s\n  the file has   %s\n  the model has  %s'):format(path,
      #report.skipped > 0
          and (': %d tensors have the right names but other shapes, first %s: %s'):format(#report.skipped,
          report.skipped[1].name, report.skipped[1].reason) or '',
      first_keys(given, 4), first_keys(own, 4)))
  end
  local share = dict.size(fitting) / math.min(dict.size(own), #names)
  if share < 0.25 and not options.prefix then
    F.raise(('%s: the weights of another architecture: only %d of its %d tensors fit the model\n  the file has   '
             .. '%s\n  the model has  %s\n'
             .. "  (in a script, checkpoint.load_weights(model, path, {prefix = ''}) takes them all the same)"):format(
            path, dict.size(fitting), #names, first_keys(given, 4), first_keys(own, 4)))
  end
  for name in dict.items(own) do
    if fitting[name] then report.loaded[#report.loaded + 1] = name
    elseif not candidates[name] and not name:find 'num_batches_tracked$' then
      report.missing[#report.missing + 1] = name
    end
  end
  if options.take then take(model, fitting) end
  if next(fitting) then model:load_state_dict(fitting, {strict = false}) end
  return report
end

-- -- Training checkpoints -------------------------------------------------------------------------

-- The options that a checkpoint remembers (`args`), without those that are None: a dict, empty
-- where there are none.
function M.options_of(value)
  local args = dict.new()
  if not (dict.is(value) and dict.is(value.args)) then return args end
  for name, v in dict.items(value.args) do
    if v ~= dict.none then args[name] = v end
  end
  return args
end

-- A training checkpoint: a dict with at least `model`. A file of bare weights is an error that says
-- so.
function M.load(path)
  local value = files.load(path)
  if is_table(value) and is_table(value.model) then return value end
  if is_table(value) and opaque.is(value.model) then no_weights(value, path, 'holds no weights') end
  if is_table(value) and has_tensors(value) then
    F.raise(path .. ': holds weights but no state of a training to go on from: start a new training with them '
                    .. '(--weights)')
  end
  F.raise(path .. ': is no training checkpoint: '
          .. (is_table(value) and 'its keys are ' .. first_keys(value, 8) or 'it is a ' .. type(value)))
end

return M
