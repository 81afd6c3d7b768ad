-- os.lua - require 'dlv3.os': what scripts need of the operating system: folders, kinds of paths,
-- signals, the process.

local F = require 'dlv3.core.ffi'
local expect = require 'dlv3.core.expect'
local files = require 'dlv3.io.files'
local C = F.C

local M = {}

local kinds = {'file', 'directory'}

-- What a path leads to: 'file' (also a device or a pipe), 'directory', or nil where nothing is
-- there.
function M.kind(path)
  expect.argument('os', 'path', path, expect.text)
  if path:find '%z' then return nil end -- C would see the path up to its first zero byte
  return kinds[C.dlv3_path_kind(path)]
end

-- Whether a path leads to a file.
function M.is_file(path) return M.kind(path) == 'file' end

-- Whether a path leads to a directory.
function M.is_directory(path) return M.kind(path) == 'directory' end

-- The names in a directory, sorted, without . and .. and what a desktop puts there (.DS_Store,
-- thumbs.db). Raises where it can not be read.
M.list = files.names_in

-- Makes a directory with its parents; one that exists is left alone. Raises where it can not be
-- made.
function M.make_directory(path)
  expect.argument('os', 'path', path, expect.text)
  F.check(C.dlv3_make_dir(path))
end

-- -- Signals --------------------------------------------------------------------------------------

-- From now on SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGPIPE only raise a flag, which pending_signal
-- reads; a second SIGINT, 0.3 s later or more, ends the process. note: what the first one writes to
-- stderr (at most 159 bytes); nil: nothing.
function M.catch_signals(note) C.dlv3_signals_catch(0, note) end

-- The number of the signal that arrived since catch_signals or clear_signal, such as 2 for Ctrl-C;
-- nil: none did.
function M.pending_signal()
  local signal = C.dlv3_signal_pending()
  return signal ~= 0 and signal or nil
end

-- Forgets the pending signal.
function M.clear_signal() C.dlv3_signal_clear() end

-- -- The process ----------------------------------------------------------------------------------

local descriptors = {stdin = 0, stdout = 1, stderr = 2}

-- Whether 'stdin', 'stdout' or 'stderr' is a terminal.
function M.is_terminal(stream)
  expect.argument('os', 'stream', stream, expect.one_of{'stdin', 'stdout', 'stderr'})
  return C.dlv3_is_terminal(descriptors[stream]) == 1
end

-- The number of this process.
function M.process_id() return tonumber(C.dlv3_getpid()) end

-- The most memory that this process has held so far (resident), in bytes.
function M.peak_memory() return tonumber(C.dlv3_peak_rss()) end

-- The number of processors of the machine.
function M.processors() return C.dlv3_processors() end

return M
