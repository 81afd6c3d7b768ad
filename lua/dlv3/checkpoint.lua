-- checkpoint.lua - require 'dlv3.checkpoint': weights into models (io/checkpoint.lua), under its
-- public name.

return require 'dlv3.io.checkpoint'
