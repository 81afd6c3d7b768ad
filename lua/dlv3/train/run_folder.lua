-- run_folder.lua - the folder that a training writes into: of one run, and of one process at a
-- time.
--
--   local folder = run_folder.claim(opt, given)    folder.path
--   folder:file 'last.pth'                         where to write it now; recreated where it was removed
--   folder:saved 'last.pth'                        that file is a sound checkpoint of this run from here on
--   folder.sound, folder.has_best                  the last sound checkpoint or nil; whether best.pth is this run's

local F = require 'dlv3.core.ffi'
local bytes = require 'dlv3.io.bytes'
local files = require 'dlv3.io.files'
local system = require 'dlv3.os'
local C = F.C

local M = {}

local Folder = {}
Folder.__index = Folder

local checkpoints = {'last.pth', 'best.pth'}
local lock_out = F.new 'dlv3_lock *[1]'

-- Makes the folder and locks it; nil where another process has it.
local function lock_folder(path)
  system.make_directory(path)
  F.check(C.dlv3_lock_folder(lock_out, path))
  return lock_out[0] ~= nil and F.gc(lock_out[0], C.dlv3_lock_free) or nil
end

local function unlock(lock) if lock then C.dlv3_lock_free(F.gc(lock, nil)) end end

-- The checkpoints in a folder, as text; nil without one.
local function run_in(path)
  local found = {}
  for _, name in ipairs(checkpoints) do
    if system.is_file(path .. '/' .. name) then found[#found + 1] = name end
  end
  return found[1] and table.concat(found, ', ')
end

local function folder_of(path)
  local folder = path:match '^(.*)/[^/]*$'
  return folder == '' and '/' or folder or '.'
end

-- What can not be written is found before the first step, not after an epoch.
local function check_writable(path)
  for _, name in ipairs(checkpoints) do
    local ok, message = pcall(function() bytes.create(path .. '/' .. name):close() end)
    if not ok then F.raise(F.without_place(message) .. '; move it away, or name another folder with --output-dir') end
  end
end

-- Locks the folder at path and checks that a run with these options may write there. Returns the
-- lock, and whether the folder holds the run that is resumed; or nil and what is in the way.
local function take(path, opt)
  local lock = lock_folder(path)
  if not lock then
    return nil, ("another training is writing into '%s': wait until it ends, or name another folder with "
                 .. '--output-dir'):format(path)
  end
  local same = opt.resume and C.dlv3_lock_is_of(lock, folder_of(opt.resume)) == 1
  local run = not same and not opt.overwrite and run_in(path)
  if not run then return lock, same end
  unlock(lock)
  if opt.resume then
    return nil,
        ("'%s' holds another run than '%s' (%s): name another folder with --output-dir, or replace that run with "
         .. "--overwrite"):format(path, opt.resume, run)
  end
  return nil,
      ("'%s' holds a run already (%s): --resume %s/last.pth goes on with it, --overwrite replaces it, --output-dir "
       .. "names another folder")
              :format(path, run, path)
end

-- A run that is resumed from last.pth or best.pth stays in their folder, wherever that is by now.
local function wanted_path(opt, given)
  local name = opt.resume and opt.resume:match '[^/]*$'
  if not given.output_dir and (name == 'last.pth' or name == 'best.pth') then return folder_of(opt.resume) end
  return opt.output_dir ~= '' and opt.output_dir or '.'
end

-- The folder for a training with these options (output_dir, resume, overwrite); given: which of
-- them the command line gave. The default folder gets a number where it is taken; raises where
-- another one is.
function M.claim(opt, given)
  local first = wanted_path(opt, given)
  local numbered = not (given.output_dir or opt.resume or opt.overwrite)
  local path, n = first, 1
  local lock, same = take(path, opt)
  while not lock and numbered do
    n = n + 1
    path = ('%s_%d'):format(first, n)
    lock, same = take(path, opt)
  end
  if not lock then F.raise(same) end
  check_writable(path)
  return setmetatable({path = path, lock = lock, resumed = same, sound = opt.resume,
                       has_best = same and system.is_file(path .. '/best.pth')}, Folder)
end

-- Removes the checkpoints of the run that is replaced (--overwrite), so that none is taken for one
-- of this run. inputs: files that the training begins with, which are none of those (a list that
-- may have gaps).
function Folder:clear(inputs)
  if self.resumed then return end
  for _, name in ipairs(checkpoints) do files.check_output(self.path .. '/' .. name, inputs, '--output-dir') end
  for _, name in ipairs(checkpoints) do os.remove(self.path .. '/' .. name) end
end

-- Another place for a folder that was removed or replaced: the same path, one beside it, or a
-- temporary one.
local function replacement(path)
  local temporary = ('%s/dlv3_run_%d'):format(os.getenv 'TMPDIR' or '/tmp', system.process_id())
  local reasons = {}
  for _, candidate in ipairs {path, path .. '_2', path .. '_3', temporary} do
    local ok, lock = pcall(lock_folder, candidate)
    if ok and lock and not run_in(candidate) then return candidate, lock end
    if ok then unlock(lock) end
    reasons[#reasons + 1] = ok and ("'%s' holds another run"):format(candidate) or F.without_place(lock)
  end
  F.raise('the output folder was removed, and no other can be made: ' .. table.concat(reasons, '; '))
end

-- The path under which a file of this name is to be written now.
function Folder:file(name)
  if C.dlv3_lock_is_of(self.lock, self.path) == 0 then
    unlock(self.lock)
    local path
    path, self.lock = replacement(self.path)
    local new = path == self.path and 'it is created anew' or ("files go to '%s'"):format(path)
    io.stderr:write(F.printable(("warning: the folder '%s' was removed during the training; %s\n"):format(self.path,
        new)))
    self.path, self.sound, self.has_best = path, nil, false
  end
  return self.path .. '/' .. name
end

-- Notes that the file of this name is a sound checkpoint of this run from now on.
function Folder:saved(name)
  self.sound = self.path .. '/' .. name
  if name == 'best.pth' then self.has_best = true end
end

return M
