-- repl_globals.lua - what -e and the REPL have that a script has to require: the library's modules
-- as globals, loaded on first use, and globals that spring into being when they are assigned.

local strict = require 'dlv3.core.strict'

strict.open = true
strict.offer(strict.modules)
