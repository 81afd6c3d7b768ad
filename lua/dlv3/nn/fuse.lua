-- fuse.lua - model:fuse(): a model for inference, its batch norms folded into the convolutions
-- before them.
--
-- A class lists what may be folded in `folds`, pairs of names {convolution, batch norm} where only
-- the second reads the first; a Sequential's neighbours are such pairs. After that its method
-- `fused`, where it has one, may change its own form. The batch norm gives its activation to the
-- convolution and returns its input from then on. Residuals reach the convolution by BatchNorm2d's
-- `after`. In place: the weights stay where they are, scaled, and are then frozen, so that kernels
-- may hold them once, in packed form.

local F = require 'dlv3.core.ffi'
local autograd = require 'dlv3.core.autograd'
local C, raise = F.C, F.raise

local M = {}

local function is_conv(m) return type(m) == 'table' and m.class_name == 'Conv2d' and m.weight ~= nil end
local function is_norm(m) return type(m) == 'table' and m.class_name == 'BatchNorm2d' and m.running_mean ~= nil end

-- y = (conv(x) + b - mean) / sqrt(var + eps) * weight + bias, as one convolution. The factors are
-- computed in f64.
local function fold(conv, norm)
  local function wide(t) return t:to 'f64' end
  local w = conv.weight:detach()
  local scale = wide(norm.weight) / (wide(norm.running_var) + norm.eps):sqrt()
  local mean = wide(norm.running_mean)
  if conv.bias then mean = mean - wide(conv.bias) end
  w:mul_(scale:to(w.dtype):reshape(-1, 1, 1, 1))
  conv:buffer('bias', (wide(norm.bias) - mean * scale):to(w.dtype), norm.bias)
  conv.options.activation = norm.activation
  norm.folded = true
  for _, name in ipairs {'weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'} do
    rawset(norm, name, nil)
  end
end

-- The pairs of keys {convolution, batch norm} that a module's class lists.
local function pairs_of(module)
  if not module.folds_neighbours then return module.folds or {} end
  local list = {}
  for i = 1, #module - 1 do list[i] = {i, i + 1} end
  return list
end

local function address(t) return tonumber(F.cast('intptr_t', t.p)) end

-- How often each module and weight occurs: a shared one is not folded, since its other use has no
-- batch norm, or another.
local function uses_of(model)
  local uses = {}
  local function count(key) uses[key] = (uses[key] or 0) + 1 end
  model:apply(function(module)
    count(module)
    if is_conv(module) then count(address(module.weight)) end
  end)
  return uses
end

local function check_eval(name, module)
  if not module.training then return end
  if module.class_name == 'BatchNorm2d' or module.class_name == 'Dropout' then
    raise(("fuse: '%s' is in training mode, and a fused model is for inference: model:eval():fuse()"):format(name))
  end
end

local function fold_pairs(module, uses)
  for _, pair in ipairs(pairs_of(module)) do
    local conv, norm = module[pair[1]], module[pair[2]]
    local are_own = is_conv(conv) and is_norm(norm) and uses[conv] == 1 and uses[norm] == 1
    if are_own and uses[address(conv.weight)] == 1 then fold(conv, norm) end
  end
end

-- Changes the model in place and returns it. What it makes lives as long as what it replaces.
function M.fuse(model)
  local modules, uses = {}, uses_of(model)
  for name, module in model:named_modules() do
    check_eval(name, module)
    modules[#modules + 1] = module
  end
  autograd.no_grad(function()
    for _, module in ipairs(modules) do fold_pairs(module, uses) end
    for _, module in ipairs(modules) do
      if module.fused and not module.is_fused then module:fused() end
      rawset(module, 'is_fused', true)
    end
  end)
  for _, p in model:named_parameters() do
    p.requires_grad = false
    C.dlv3_tensor_freeze(p.p)
  end
  for _, b in model:named_buffers() do C.dlv3_tensor_freeze(b.p) end -- weights that were split are buffers
  collectgarbage()
  return model
end

-- Raises where a fused model can no longer do `what`.
function M.refuse(module, what)
  if module.is_fused then
    raise(what .. ': a fused model is for inference only, its batch norms are gone: construct the model anew and '
                  .. 'load its weights')
  end
end

return M
