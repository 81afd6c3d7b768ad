-- flatten.lua - layers that change the shape alone.

local Module = require 'dlv3.nn.module'

local M = {}

-- Identity(): returns x.
M.Identity = Module.class('Identity', function() end)
-- x -> x.
function M.Identity:forward(x) return x end

-- Flatten(): x [n, a, b, ...] -> [n, a b ...].
M.Flatten = Module.class('Flatten', function() end)
-- x [n, a, b, ...] -> [n, a b ...].
function M.Flatten:forward(x) return self:input(x):flatten(2) end

return M
