-- docs.lua - help texts of functions that other functions make, so that no comment of their own
-- stands above them.

local M = {}

local texts = setmetatable({}, {__mode = 'k'})

-- Sets what ?name prints of a function, and returns the function.
function M.describe(fn, text)
  texts[fn] = text
  return fn
end

-- The text of a function that was described; nil of others, whose text is the comment above them.
function M.text_of(fn) return texts[fn] end

return M
