-- late.lua - train.late: losses that are read one step late, so that the host never waits for a
-- GPU.

local tensor = require 'dlv3.core.tensor'

-- late(device, fn): fn(loss) for the loss of each step, at once on the cpu, on a GPU when the next
-- one is put. Returns {put(read), flush()}; read: a loss as x:item_later() gives it; flush passes
-- on the last one.
return function(device, fn)
  local late, waiting = {}, nil
  local at_once = tensor.zeros({1}):to(device).device == 'cpu'

  function late.flush()
    local read = waiting
    waiting = nil
    if read then fn(read()) end
  end

  function late.put(read)
    late.flush()
    waiting = read
    if at_once then late.flush() end
  end

  return late
end
