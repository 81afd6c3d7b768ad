-- options.lua - a script's command line, from one table.
--
--   local opt, given = options.parse({
--     doc = 'Trains DeepLabV3.',
--     {'data-path',    'data', 'folder that holds VOCdevkit', value = 'DIR'},
--     {'batch-size',   4,      'images a step', short = 'b', min = 1},
--     {'weight-decay', 1e-4,   'L2 penalty', alias = 'wd'},
--     {'precision',    'f32',  'of activations', choices = {'f32', 'bf16'}},
--     {'aux',          true,   'train the auxiliary head'},                      -- --aux --no-aux --aux false
--     {'atrous-rates', {12, 24, 36}, 'of the ASPP'},                             -- --atrous-rates 6,12,18
--     {'weights',      nil,    'checkpoint to start from', value = 'FILE'},      -- no default: nil where not given
--     {'photo',        nil,    'JPEG or PNG files', positional = true, min = 1}, -- a list of what is left
--   }, arg)
--
-- The type is the default's: a whole number makes an integer (type = 'number' where fractions are
-- meant), nil a string; or type = 'number', 'integer', 'boolean', 'string', 'list'. A string in the
-- table is a heading of --help. opt has the values, opt.batch_size; given says which of them came
-- from the command line.

local F = require 'dlv3.core.ffi'
local expect = require 'dlv3.core.expect'
local suggest = require 'dlv3.core.suggest'

local M = {}

local words = {
  ['true'] = true, ['1'] = true, yes = true, on = true, ['false'] = false, ['0'] = false, no = false, off = false,
}

local function key_of(name) return (name:gsub('-', '_')) end

local function type_of(option)
  local default = option[2]
  if option.type then return option.type end
  if type(default) == 'number' then
    return default == math.floor(default) and math.abs(default) < 2 ^ 53 and 'integer' or 'number'
  end
  return ({boolean = 'boolean', table = 'list'})[type(default)] or 'string'
end

-- The table read once: options by every spelling, in order, and the positional one.
local function read(spec)
  local s = {list = {}, by_name = {}, names = {}}
  for _, option in ipairs(spec) do
    if type(option) == 'table' then
      local o = {name = option[1], key = key_of(option[1]), default = option[2], doc = option[3] or '',
                 type = type_of(option), spec = option,
                 spellings = {}}
      if option.positional then s.positional = o
      else
        local alias = option.alias or {}
        if option.short then o.spellings[1] = (#option.short == 1 and '-' or '--') .. option.short end
        o.spellings[#o.spellings + 1] = '--' .. o.name
        for _, name in ipairs(type(alias) == 'table' and alias or {alias}) do
          o.spellings[#o.spellings + 1] = '--' .. name
        end
        for _, spelling in ipairs(o.spellings) do
          if s.by_name[spelling] then error("options: '" .. spelling .. "' is there twice", 3) end
          s.by_name[spelling] = o
          s.names[#s.names + 1] = spelling
        end
      end
      s.list[#s.list + 1] = o
    end
  end
  return s
end

-- -- Values ---------------------------------------------------------------------------------------

local function number_of(text) return not text:find '^%s*$' and not text:find '[xX]' and tonumber(text) or nil end

-- The value that a text means, of each type; nil where it means none.
local convert = {}

-- A string as it is.
function convert.string(text) return text end
convert.number = number_of
convert.integer = number_of
-- true, false, yes, no, on, off, 1, 0, in any case.
function convert.boolean(text) return words[text:lower()] end

local function has_numbers(o) return o.spec.numbers or type(o.default) == 'table' and type(o.default[1]) == 'number' end

-- Items with commas between them: numbers where the option has numbers, else strings; an empty text
-- is an empty list.
function convert.list(text, o)
  local list = {}
  if text == '' then return list end
  for item in (text .. ','):gmatch '([^,]*),' do
    item = item:match '^%s*(.-)%s*$'
    if has_numbers(o) then item = number_of(item) end
    if item == nil then return nil end
    list[#list + 1] = item
  end
  return list
end

local function is_list_of_numbers(v)
  if type(v) ~= 'table' then return false end
  for _, n in ipairs(v) do
    if type(n) ~= 'number' then return false end
  end
  return true
end

-- The check (expect.lua) that an option's values pass, wherever they are read from.
local function check_of(o)
  local spec = o.spec
  if spec.choices then return expect.one_of(spec.choices) end
  if o.type == 'number' then return expect.number(spec.min, spec.max) end
  if o.type == 'integer' then return expect.whole(spec.min, spec.max) end
  if o.type == 'boolean' then return expect.flag end
  if o.type == 'string' then return expect.text end
  if has_numbers(o) then return expect.value('numbers with commas between them, as in 12,24,36', is_list_of_numbers) end
  return expect.list
end

-- The value of a text; or nil, message where it does not fit.
local function value_of(o, text, spelling)
  local v = convert[o.type](text, o)
  local message = check_of(o)(v == nil and text or v, spelling)
  if message then return nil, message end
  return v
end

-- What is wrong with a value of the option with this key that is not from the command line; nil
-- where it fits.
function M.misfit(spec, key, v)
  for _, o in ipairs(read(spec).list) do
    if o.key == key then return check_of(o)(v, '--' .. o.name) end
  end
end

-- -- The command line -----------------------------------------------------------------------------

-- "--lr=1" -> --lr, 1; "-b4" -> -b, 4; "--no-aux" -> --aux, nil, true
local function split(word, s)
  local name, value = word:match '^(%-%-?[^=]+)=(.*)$'
  if name then return name, value end
  if not s.by_name[word] then
    local positive = word:match '^%-%-no%-(.+)$'
    local o = positive and s.by_name['--' .. positive]
    if o and o.type == 'boolean' then return '--' .. positive, nil, true end
    local short, rest = word:match '^(%-[%w])(.+)$'
    if short and s.by_name[short] and s.by_name[short].type ~= 'boolean' then return short, rest end
  end
  return word
end

local function unknown(name, s)
  if name:sub(1, 2) ~= '--' and #name > 2 and s.by_name['-' .. name] then
    return ("no option '%s'; did you mean '-%s'?"):format(name, name)
  end
  local names = {}
  for _, n in ipairs(s.names) do
    names[#names + 1] = n
    if s.by_name[n].type == 'boolean' and n:sub(1, 2) == '--' then names[#names + 1] = '--no-' .. n:sub(3) end
  end
  local plain, bare = {}, name:match '^%-*(.*)$'
  for _, n in ipairs(names) do if n:sub(1, 2) == '--' then plain[#plain + 1] = n:sub(3) end end
  local found = #bare > 1 and suggest.names(bare, plain) or {}
  for i, n in ipairs(found) do found[i] = "'--" .. n .. "'" end
  local question = found[1] and '; did you mean ' .. table.concat(found, ' or ') .. '?' or ''
  return ("no option '%s'%s (--help lists them)"):format(name, question)
end

local function looks_like_option(text, s)
  return text ~= nil and #text > 1 and text:sub(1, 1) == '-' and not number_of(text)
      and (text:sub(1, 2) == '--' or s.by_name[text] ~= nil)
end

-- Takes the option at words[i] into opt. Returns the index after it, or nil, message.
local function take_option(words_, i, s, opt, given)
  local name, value, negative = split(words_[i], s)
  local o = s.by_name[name]
  if not o then return nil, unknown(name, s) end
  local v, message
  if o.type == 'boolean' and value == nil then
    local following = words_[i + 1]
    v = not negative
    if not negative and following and words[following:lower()] ~= nil then v, i = words[following:lower()], i + 1 end
  else
    if value == nil then
      i = i + 1
      value = words_[i]
      if value == nil or looks_like_option(value, s) then
        local what = ({number = 'a number', integer = 'a whole number', list = 'a list, with commas'})[o.type]
            or 'a value'
        return nil, ('%s: expected %s after it'):format(name, what)
      end
    end
    v, message = value_of(o, value, name)
    if v == nil then return nil, message end
  end
  opt[o.key], given[o.key] = v, true
  return i + 1
end

local function with_defaults(s)
  local opt = {}
  for _, o in ipairs(s.list) do
    if type(o.default) == 'table' then opt[o.key] = {unpack(o.default)} else opt[o.key] = o.default end
  end
  if s.positional then opt[s.positional.key] = {} end
  return opt
end

local function check_complete(s, opt, given)
  for _, o in ipairs(s.list) do
    if o.spec.required and not given[o.key] then
      return ('--%s %s must be given: %s'):format(o.name, o.spec.value or o.type:upper(), o.doc)
    end
  end
  local p = s.positional
  if not p then return end
  local n, least, most = #opt[p.key], p.spec.min or 0, p.spec.max or math.huge
  if n < least then return ('%s must be given: %s'):format(p.name:upper(), p.doc) end
  if n > most then return ("'%s' is one too many (at most %d %s)"):format(opt[p.key][most + 1], most, p.name) end
end

-- Reads arg by spec: values, which were given; or nil, message; or nil, the help text, 'help'.
function M.try(spec, arg)
  local s = read(spec)
  local opt, given, i, only_positional = with_defaults(s), {}, 1, false
  while i <= #arg do
    local word = arg[i]
    if only_positional or word == '-' or word:sub(1, 1) ~= '-'
        or (number_of(word) and not s.by_name[word:sub(1, 2)]) then
      if not s.positional then
        return nil, ("'%s' is not understood here: options begin with -- (--help lists them)"):format(word)
      end
      local list = opt[s.positional.key]
      list[#list + 1], i = word, i + 1
      given[s.positional.key] = true
    elseif word == '--' then only_positional, i = true, i + 1
    elseif (word == '--help' or word == '-h') and not s.by_name[word] then return nil, M.help(spec, arg[0]), 'help'
    else
      local message
      i, message = take_option(arg, i, s, opt, given)
      if not i then return nil, message end
    end
  end
  local message = check_complete(s, opt, given)
  if message then return nil, message end
  return opt, given
end

-- -- Help -----------------------------------------------------------------------------------------

local function default_text(o)
  local d = o.default
  if d == nil or d == '' or d == false or o.spec.hide_default then return nil end
  if type(d) == 'table' then return #d > 0 and table.concat(d, ',') or nil end
  if type(d) == 'number' then return ('%.10g'):format(d) end
  return tostring(d)
end

local function left_column(o)
  if o.spec.positional then return o.name:upper() .. ((o.spec.max or 2) > 1 and ' ...' or '') end
  local spelling = table.concat(o.spellings, ', ')
  if o.spellings[1]:sub(1, 2) == '--' then spelling = '    ' .. spelling end
  if o.type == 'boolean' and not o.default then return spelling end
  if o.type == 'boolean' then return (spelling:gsub('%-%-' .. o.name:gsub('%-', '%%-'), '--[no-]' .. o.name, 1)) end
  return spelling .. ' ' .. (o.spec.value or ({number = 'X', integer = 'N', list = 'A,B,...'})[o.type]
                             or o.spec.choices and 'NAME' or 'TEXT')
end

local function wrap(text, width)
  local lines, line = {}, ''
  for word in text:gmatch '%S+' do
    if #line > 0 and #line + 1 + #word > width then lines[#lines + 1], line = line, '' end
    line = #line > 0 and line .. ' ' .. word or word
  end
  lines[#lines + 1] = line
  return lines
end

local function right_column(o)
  local text = o.doc
  if o.spec.choices then text = text .. (#text > 0 and ': ' or '') .. table.concat(o.spec.choices, ', ') end
  if o.spec.required then return text .. ' (must be given)' end
  local default = default_text(o)
  return default and text .. ' [' .. default .. ']' or text
end

-- The text of --help: usage, doc, the options in aligned columns with their defaults in brackets.
function M.help(spec, script)
  local s, lines, width, at = read(spec), {}, 0, 0
  for _, o in ipairs(s.list) do if #left_column(o) <= 34 then width = math.max(width, #left_column(o)) end end
  local tail = s.positional and ' ' .. left_column(s.positional) or ''
  lines[1] = 'usage: ' .. (spec.usage or 'dlv3 ' .. (script or 'script.lua') .. ' [options]' .. tail)
  if spec.doc then
    lines[2] = ''
    for paragraph in (spec.doc .. '\n'):gmatch '(.-)\n' do
      for _, line in ipairs(wrap(paragraph, 100)) do lines[#lines + 1] = line end
    end
  end
  lines[#lines + 1] = ''
  for _, option in ipairs(spec) do
    if type(option) == 'string' then lines[#lines + 1] = (lines[#lines] ~= '' and '\n' or '') .. option
    else
      at = at + 1
      local o = s.list[at]
      local left = left_column(o)
      for i, text in ipairs(wrap(right_column(o), math.max(40, 106 - width))) do
        if i == 1 and #left > width then lines[#lines + 1] = '  ' .. left end
        lines[#lines + 1] = ('  %-' .. width .. 's  %s'):format(i == 1 and #left <= width and left or '', text)
      end
    end
  end
  lines[#lines + 1] = ('  %-' .. width .. 's  %s'):format('-h, --help', 'this text')
  if spec.epilog then lines[#lines + 1] = '\n' .. spec.epilog end
  return table.concat(lines, '\n') .. '\n'
end

-- Ends the script with "script.lua: message" on stderr and status 2: bad usage.
function M.fail(message, arg)
  io.stdout:flush()
  io.stderr:write((arg and arg[0] and arg[0]:match '[^/]*$' or 'dlv3'), ': ', F.printable(message), '\n')
  os.exit(2)
end

-- try, for scripts: prints the help and ends with 0, or a message and ends with 2.
function M.parse(spec, arg)
  local opt, second, kind = M.try(spec, arg)
  if opt then return opt, second end
  if kind == 'help' then
    io.stdout:write(second)
    os.exit(0)
  end
  M.fail(second, arg)
end

return M
