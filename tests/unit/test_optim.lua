-- test_optim.lua - SGD over arenas and learning-rate schedules.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local nn = require 'dlv3.nn'
local optim = require 'dlv3.optim'

return function(t)
  local function parameter(...) return nn.Parameter(dlv3.tensor({...}, {dtype = 'f64'})) end

  -- p, and its gradient 2 p, after steps of PyTorch's formula.
  local function expected(p, steps, o)
    local buffer
    for _ = 1, steps do
      local g = 2 * p + (o.weight_decay or 0) * p
      if (o.momentum or 0) ~= 0 then
        buffer = buffer and o.momentum * buffer + g or g
        g = o.nesterov and g + o.momentum * buffer or buffer
      end
      p = p - o.lr * g
    end
    return p
  end

  t.case('the formula of PyTorch: momentum, weight decay, nesterov', function()
    for _, o in ipairs {{lr = 0.1}, {lr = 0.1, momentum = 0.9}, {lr = 0.1, momentum = 0.9, weight_decay = 0.01},
                        {lr = 0.01, momentum = 0.5, weight_decay = 0.1, nesterov = true}} do
      local p = parameter(1, -2, 3)
      local sgd = optim.SGD({p}, o)
      for _ = 1, 4 do
        sgd:zero_grad()
        p:square():sum():backward()
        sgd:step()
      end
      for i, v in ipairs {1, -2, 3} do t.close(p[i]:item(), expected(v, 4, o), 1e-14, 0) end
    end
  end)

  t.case('groups have their own options, and lr may be set at any time', function()
    local a, b = parameter(1), parameter(1)
    local sgd = optim.SGD({{params = {a}}, {params = {b}, lr = 0.5}}, {lr = 0.1})
    t.eq({sgd.groups[1].lr, sgd.groups[2].lr}, {0.1, 0.5})
    local function step()
      sgd:zero_grad()
      local total = a + b
      total:sum():backward()
      sgd:step()
    end
    step()
    t.close({a:item(), b:item()}, {0.9, 0.5}, 1e-15, 0)
    sgd.groups[1].lr, sgd.groups[2].lr = 1e-3, 0
    step()
    t.close({a:item(), b:item()}, {0.899, 0.5}, 1e-15, 0)
  end)

  t.case('parameters lie in one arena on cache lines, and stay what they were', function()
    local net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1))
    local x, before = dlv3.randn{1, 3, 6, 6}, {}
    for name, v in dlv3.items(net:state_dict()) do before[name] = v:clone() end
    local y = net:eval()(x)
    local sgd = optim.SGD(net:parameters(), {lr = 0.1, momentum = 0.9})
    for name, v in dlv3.items(net:state_dict()) do t.eq(v, before[name], name) end
    t.eq(net(x), y)
    for _, p in ipairs(net:parameters()) do
      t.eq(runtime.address(p) % 64, 0)
      t.eq(runtime.address(p.grad) % 64, 0)
    end
    sgd:zero_grad()
    net(x):sum():backward()
    t.ok(sgd.groups[1].arena.grad:abs():max():item() > 0, 'gradients go into the arena')
    sgd:zero_grad()
    for _, p in ipairs(net:parameters()) do t.eq(p.grad:abs():max():item(), 0) end
  end)

  t.case('frozen parameters and those that backward did not reach are left alone', function()
    local used, unused, frozen = parameter(1, 2), parameter(3, 4), parameter(5)
    frozen:requires_grad_(false)
    local after = parameter(6)
    local sgd = optim.SGD({used, unused, frozen, after}, {lr = 0.1, momentum = 0.9, weight_decay = 0.1})
    for _ = 1, 3 do
      sgd:zero_grad()
      local total = used:sum() + after:sum()
      total:backward()
      sgd:step()
    end
    t.eq(unused:totable(), {3, 4})
    t.eq(frozen:totable(), {5})
    t.ok(used[1]:item() < 1 and after[1]:item() < 6)
    sgd:zero_grad()
    unused:sum():backward()
    sgd:step()
    t.close(unused:totable(), {3 - 0.1 * 1.3, 4 - 0.1 * 1.4}, 1e-14, 0)
  end)

  t.case('gradients that were taken away, put in place or changed', function()
    local o = {lr = 0.1, momentum = 0.9}
    local function run(clear)
      local p = parameter(1, 2, 3)
      local sgd = optim.SGD({p}, o)
      for _ = 1, 3 do
        clear(p, sgd)
        p:square():sum():backward()
        sgd:step()
      end
      return p:totable()
    end
    local usual = run(function(_, sgd) sgd:zero_grad() end)
    t.eq(run(function(p) p.grad = nil end), usual)
    t.eq(run(function(p) p.grad = dlv3.zeros({3}, {dtype = 'f64'}) end), usual)
    t.eq(run(function(p) if p.grad then p.grad:fill_(0) end end), usual)
    local p = parameter(1)
    local sgd = optim.SGD({p}, {lr = 1})
    p:sum():backward()
    p.grad:mul_(0.25) -- as clipping does
    sgd:step()
    t.eq(p:item(), 0.75)
    p.grad = nil
    sgd:step()
    t.eq(p:item(), 0.75)
    sgd:zero_grad() -- accumulates over two backward passes
    p:sum():backward()
    p:sum():backward()
    sgd:step()
    t.eq(p:item(), -1.25)
  end)

  t.case('a step in a scope, and no tape', function()
    local p = parameter(1, 2)
    local sgd = optim.SGD({p}, {lr = 0.1, momentum = 0.9})
    for _ = 1, 3 do
      dlv3.scope(function()
        sgd:zero_grad()
        p:square():sum():backward()
        sgd:step()
      end)
    end
    t.close(p[2]:item(), expected(2, 3, {lr = 0.1, momentum = 0.9}), 1e-14, 0)
    t.ok(p.is_leaf and p.requires_grad)
  end)

  t.case('state: a run that goes on from it has the same bits', function()
    local function start()
      dlv3.manual_seed(3)
      local net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1))
      return net, optim.SGD({{params = net[1]:parameters()}, {params = net[2]:parameters(), lr = 0.05}},
                            {lr = 0.1, momentum = 0.9, weight_decay = 1e-3})
    end
    local x = dlv3.randn{2, 2, 5, 5}
    local function steps(net, sgd, n)
      for _ = 1, n do
        sgd:zero_grad()
        net(x):square():mean():backward()
        sgd:step()
      end
    end
    local net, sgd = start()
    steps(net, sgd, 4)
    local half, half_sgd = start()
    steps(half, half_sgd, 2)
    half_sgd.groups[1].lr = 0.1
    local file = t.folder() .. '/state.pth'
    dlv3.save(file, {model = half:state_dict(), optimizer = half_sgd:state_dict()})
    local again, again_sgd = start()
    local saved = dlv3.load(file)
    again:load_state_dict(saved.model)
    again_sgd:load_state_dict(saved.optimizer)
    steps(again, again_sgd, 2)
    for name, v in dlv3.items(net:state_dict()) do t.eq(again:state_dict()[name], v, name) end
    -- and into one that was made without momentum and has been running
    local other, other_sgd = start()
    for _, g in ipairs(other_sgd.groups) do g.momentum, g.lr = 0, 7 end
    other:load_state_dict(saved.model)
    other_sgd:load_state_dict(saved.optimizer)
    t.eq({other_sgd.groups[1].lr, other_sgd.groups[2].lr, other_sgd.groups[1].momentum}, {0.1, 0.05, 0.9})
    steps(other, other_sgd, 2)
    for name, v in dlv3.items(net:state_dict()) do t.eq(other:state_dict()[name], v, name) end
  end)

  t.case("state: PyTorch's form", function()
    local a, b, c = parameter(1), parameter(2, 3), parameter(4)
    b:requires_grad_(false)
    local sgd = optim.SGD({{params = {a, b}}, {params = {c}, lr = 1}}, {lr = 0.1, momentum = 0.9})
    sgd:zero_grad()
    local total = a + c
    total:sum():backward()
    sgd:step()
    local sd = sgd:state_dict()
    t.eq(sd.param_groups[1].params, {0, 1})
    t.eq(sd.param_groups[2].params, {2})
    t.eq({sd.param_groups[2].lr, sd.param_groups[2].momentum, sd.param_groups[2].initial_lr}, {1, 0.9, 1})
    t.eq(sd.state[0].momentum_buffer:totable(), {1})
    t.eq(sd.state[1], nil)
    t.eq(sd.state[2].momentum_buffer:totable(), {1})
    local function load(change)
      local copy = sgd:state_dict()
      change(copy)
      return function() sgd:load_state_dict(copy) end
    end
    t.error(load(function(s) s.param_groups[2] = nil end), 'the state has 1 parameter groups, the optimiser 2')
    t.error(load(function(s) s.param_groups[1].params = {0} end),
            'group 1 of the state has 1 parameters, the optimiser 2')
    t.error(load(function(s) s.state[2] = {momentum_buffer = dlv3.zeros{3}} end),
            'the momentum of parameter 2 is %[3%] in the state, the parameter is %[1%]')
    t.error(load(function(s) s.param_groups[1].dampening = 0.5 end), 'dampening')
    t.error(function() sgd:load_state_dict{} end,
            'expected the state of an optimiser %(state, param_groups%), got a list')
  end)

  t.case('what can not be optimised says why', function()
    local p = parameter(1)
    t.error(function() optim.SGD({p}, {lr = 0.1, momentun = 0.9}) end,
            "SGD: no option 'momentun'; did you mean 'momentum'")
    t.error(function() optim.SGD({{params = {p}, weigth_decay = 1}}) end,
            "no option 'weigth_decay'; did you mean 'weight_decay'")
    t.error(function() optim.SGD({p}, {lr = -1}) end, 'lr: expected a number from 0, got %-1')
    t.error(function() optim.SGD({p}, {lr = '0.1'}) end, "lr: expected a number from 0, got '0.1'")
    t.error(function() optim.SGD({p}, {nesterov = true}) end, 'nesterov: expected a momentum above 0 with it')
    t.error(function() optim.SGD({{lr = 1}}) end, 'group 1: expected params, .*got nothing')
    t.error(function() optim.SGD({{params = nn.Linear(1, 1):named_parameters()}}) end,
            'group 1: expected params, .*got a function')
    t.error(function() optim.SGD({{params = {3}}}) end, 'parameter 1 of group 1: expected a tensor, got 3')
    t.error(function() optim.SGD({p * 2}) end, 'is the result of an operation')
    t.error(function() optim.SGD({{params = {p}}, {params = {p}}}) end,
            'parameter 1 of group 2 is also parameter 1 of group 1')
    t.error(function() optim.SGD(p) end, 'SGD: expected a table of parameters')
    t.error(function() return optim.Sgd end, "optim has no 'Sgd'; did you mean 'SGD'")
    local layer = nn.Linear(2, 2)
    local sgd = optim.SGD(layer:parameters())
    layer:to('cpu', 'f64')
    t.error(function() sgd:step() end, 'a parameter was moved or released after the optimiser was made')
  end)

  -- -- Scopes -------------------------------------------------------------------------------------

  -- Three steps of w^2 / 2 from w = 1.
  local function three_steps(sgd, w)
    for _ = 1, 3 do
      local loss = (w * w):sum() / 2
      sgd:zero_grad()
      loss:backward()
      sgd:step()
    end
    return w:item()
  end

  t.case('an optimiser made in a scope lives as long as the parameters', function()
    local w = nn.Parameter(dlv3.ones{1})
    local sgd
    dlv3.scope(function() sgd = optim.SGD({w}, {lr = 0.5, momentum = 0.5}) end)
    local v = nn.Parameter(dlv3.ones{1})
    t.eq(three_steps(sgd, w), three_steps(optim.SGD({v}, {lr = 0.5, momentum = 0.5}), v))
    t.eq(w.grad:size(), {1})
    t.eq(sgd:state_dict().state[0].momentum_buffer:size(), {1})
  end)

  t.case('parameters of two scopes in one group: none ends before the older', function()
    local old = nn.Parameter(dlv3.ones{1})
    local sgd
    dlv3.scope(function()
      local new = nn.Parameter(dlv3.ones{1})
      sgd = optim.SGD({new, old}, {lr = 0.5, momentum = 0.5})
    end)
    t.eq(old:item(), 1)
    t.eq(sgd.groups[1].arena.lr:item(), 0)
    t.eq(sgd.groups[1].arena.momentum:size(), {32})
  end)

  t.case('a momentum that is set late, in a scope, lives as long as the parameters', function()
    local w = nn.Parameter(dlv3.ones{1})
    local sgd = optim.SGD({w}, {lr = 0.5})
    dlv3.scope(function()
      sgd.groups[1].momentum = 0.5
      three_steps(sgd, w)
    end)
    local after = three_steps(sgd, w)
    local v = nn.Parameter(dlv3.ones{1})
    local other = optim.SGD({v}, {lr = 0.5, momentum = 0.5})
    three_steps(other, v)
    t.eq(after, three_steps(other, v))
  end)

  t.case('a gradient that is assigned in a scope lives as long as its parameter', function()
    local w = nn.Parameter(dlv3.ones{2})
    dlv3.scope(function() w.grad = dlv3.full({2}, 3) end)
    t.eq(w.grad, dlv3.full({2}, 3))
  end)

  -- -- Schedules ----------------------------------------------------------------------------------

  t.case('poly: warmup, then a power, 0 past the end', function()
    local f = optim.poly{steps_per_epoch = 10, epochs = 4}
    t.eq(f(0), 1e-3)
    t.close(f(5), 0.5005, 1e-15, 0)
    t.eq(f(10), 1)
    t.close(f(25), 0.5 ^ 0.9, 1e-15, 0)
    t.eq({f(40), f(41), f(1000)}, {0, 0, 0})
    local plain = optim.poly{steps_per_epoch = 10, epochs = 4, warmup_epochs = 0, power = 2}
    t.eq({plain(0), plain(20), plain(40)}, {1, 0.25, 0})
    t.eq(optim.poly{steps_per_epoch = 10, epochs = 1}(11), 0)
    -- Python's floats, as float.hex writes them: facts of the reference's formula at 366 steps and
    -- 30 epochs
    local g = optim.poly{steps_per_epoch = 366, epochs = 30}
    local hex = {[1] = '0x1.e8d587785ca9ep-9', [100] = '0x1.1886904cd1190p-2', [366] = '0x1.0000000000000p+0',
                 [367] = '0x1.fff4e2c8801adp-1', [5000] = '0x1.317fc12a7ea13p-1', [10979] = '0x1.f346148d355bdp-13'}
    local values, wanted = {}, {}
    for step, text in pairs(hex) do values[#values + 1], wanted[#wanted + 1] = g(step), tonumber(text) end
    t.eq(values, wanted)
  end)

  t.case('multistep, cosine, constant', function()
    local f = optim.multistep{steps_per_epoch = 10, milestones = {2, 3}, warmup_epochs = 1}
    t.close({f(0), f(5), f(10), f(20), f(30)}, {1e-3, 0.5005, 1, 0.1, 0.01}, 1e-12, 0)
    local c = optim.cosine{steps_per_epoch = 10, epochs = 2}
    t.close({c(0), c(10), c(20), c(30)}, {1, 0.5, 0, 0}, 1e-12, 1e-15)
    t.eq({optim.constant()(0), optim.constant{steps_per_epoch = 3}(99)}, {1, 1})
  end)

  t.case('schedules check their options', function()
    t.error(function() optim.poly{steps_per_epoch = 10} end,
            'optim.poly: epochs: expected a whole number from 1, got nothing')
    t.error(function() optim.poly() end, 'optim.poly: epochs: expected a whole number from 1, got nothing')
    t.error(function() optim.poly{steps_per_epoch = 10, epoch = 3} end,
            "optim.poly: no option 'epoch'; did you mean 'epochs'")
    t.error(function() optim.poly{steps_per_epoch = 0, epochs = 3} end,
            'steps_per_epoch: expected a whole number from 1, got 0')
    t.error(function() optim.poly{steps_per_epoch = 1, epochs = 3, warmup_epochs = 4} end,
            'warmup_epochs: expected a number from 0 to 3, got 4')
    t.error(function() optim.multistep{steps_per_epoch = 1, milestones = 3} end, 'milestones: expected a list, got 3')
    t.error(function() return optim.polly end, "optim has no 'polly'; did you mean 'poly'")
  end)

  t.case('what would train nothing is refused', function()
    local layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    t.error(function() optim.SGD(layers, {lr = 0.1}) end, 'got a module: optim.SGD%(model:parameters')
    t.error(function() optim.SGD({}, {lr = 0.1}) end, 'expected at least one parameter, got none')
    t.error(function() optim.SGD({{params = {}}}, {lr = 0.1}) end, 'expected at least one parameter, got none')
    local one = optim.SGD({params = layers:parameters(), lr = 0.5}, {lr = 0.1})
    t.eq(#one.groups, 1)
    t.eq(one.groups[1].lr, 0.5)
    t.error(function() one.lr = 1 end, "'lr' can not be set on the optimiser; .* opt.groups%[1%].lr")
  end)

  t.case('a parameter that learns again needs a new optimiser, which takes over the momenta', function()
    local a, b = parameter(1), parameter(1)
    b.requires_grad = false
    local old = optim.SGD({a, b}, {lr = 0.1, momentum = 0.9})
    local function step(sgd)
      local loss = (a + b):square():sum()
      sgd:zero_grad()
      loss:backward()
      sgd:step()
    end
    step(old)
    b.requires_grad = true
    t.error(function() step(old) end, 'was frozen when the optimiser was made requires gradients now: make a new '
                                      .. 'optimiser')
    local new = optim.SGD({a, b}, {lr = 0.1, momentum = 0.9})
    new:load_state_dict(old:state_dict())
    t.close(new:state_dict().state[0].momentum_buffer:item(), 4, 0, 0)
    step(new)
    t.ok(b:item() ~= 1)
  end)

  t.case('gradients are clipped to a norm, all together', function()
    local a, b = parameter(3), parameter(4)
    local sgd = optim.SGD({a, b}, {lr = 1})
    local function gradients(max_norm)
      local loss = (a:square():sum() + b:square():sum()) / 2
      sgd:zero_grad()
      loss:backward()
      return optim.clip_grad_norm_({a, b}, max_norm):item()
    end
    t.close(gradients(10), 5, 1e-12, 0)
    t.close(a.grad:item(), 3, 0, 0)
    t.close(gradients(1), 5, 1e-12, 0)
    t.close(a.grad:item(), 3 / (5 + 1e-6), 1e-12, 0)
    sgd:step()
    t.close(b:item(), 4 - 4 / (5 + 1e-6), 1e-12, 0)
    local c = parameter(2) -- no backward pass reaches it: no decay
    local other = optim.SGD({a, c}, {lr = 1, weight_decay = 0.1})
    other:zero_grad()
    a:square():sum():backward()
    t.close(optim.clip_grad_norm_({a, c}, 1):item(), 2 * math.abs(a:item()), 1e-12, 0)
    other:step()
    t.close(c:item(), 2, 0, 0)
    t.error(function() optim.clip_grad_norm_({a}, 1, 1) end, 'norm_type: expected 2, got 1')
    t.error(function() optim.clip_grad_norm_(a, 1) end, 'clip_grad_norm_: expected a table of parameters')
  end)

  t.case('a second optimiser of the same parameters is told', function()
    local p = parameter(1)
    local first, second = optim.SGD({p}, {lr = 1}), optim.SGD({p}, {lr = 1})
    p:square():sum():backward()
    second:step()
    t.error(function() first:step() end, 'belongs to an optimiser that was made after this one')
  end)

  t.case('schedules, steps and data sets say what they take', function()
    t.error(function() optim.poly{steps_per_epoch = 2, epochs = 2}(nil) end,
            'optim.poly: step: expected a number from 0, got nothing')
    t.error(function() optim.multistep{steps_per_epoch = 2, milestones = {'a'}} end,
            "milestones.1: expected a number from 0, got 'a'")
    t.error(function() optim.SGD({parameter(1)}, {lr = 1}):step(function() end) end, 'SGD: step takes no closure')
    t.error(function() parameter(1):sum():backward{retain_graph = true} end,
            'backward: expected the gradient of t, a tensor')
    t.error(function() return dlv3.zero end, "dlv3 has no 'zero'; did you mean 'zeros'%?")
    t.error(function() require 'dlv3.data'.voc() end,
            'data.voc: root: expected the folder that holds VOCdevkit, got nothing')
  end)
end
