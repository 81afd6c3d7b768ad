-- test_fuse.lua - model:fuse(): the same results, the weights in memory once, and what it refuses.

local dlv3 = require 'dlv3'
local runtime = require 'dlv3.core.runtime'
local nn = require 'dlv3.nn'
local models = require 'models'

return function(t)
  -- Statistics and factors as after a training, so that folding has something to do.
  local function settled(model)
    for name, x in model:named_buffers() do
      if name:find 'running_mean' then x:normal_(0, 0.1) elseif name:find 'running_var' then x:uniform_(0.5, 2) end
    end
    dlv3.no_grad(function()
      model:apply(function(module)
        if module.class_name == 'BatchNorm2d' then
          module.weight:detach():uniform_(0.5, 1.5)
          module.bias:detach():normal_(0, 0.1)
        end
      end)
    end)
    return model:eval()
  end

  local function relative(a, b) return (a:to 'f64' - b:to 'f64'):abs():max():item() / a:abs():max():item() end

  for _, name in ipairs {'deeplabv3_mobilenet_v3_large', 'deeplabv3_resnet50', 'deeplabv3_resnet101'} do
    t.case(name .. ': the fused model gives the same', function()
      dlv3.manual_seed(1)
      local model = settled(models[name]{num_classes = 5, aux = true})
      local x, x2 = dlv3.randn{2, 3, 65, 49}, dlv3.randn{1, 3, 33, 33}
      local want, want2 = dlv3.no_grad(model, x), dlv3.no_grad(model, x2)
      t.ok(model:fuse() == model)
      local norms, left = 0, 0
      for _, module in model:named_modules() do
        if module.class_name == 'BatchNorm2d' then norms, left = norms + 1, left + (module.folded and 0 or 1) end
      end
      t.eq({norms > 40, left}, {true, 0})
      for round = 1, 2 do
        local got, got2 = model(x), model(x2) -- also outside of no_grad: nothing requires grad
        for _, key in ipairs {'out', 'aux'} do
          t.ok(relative(want[key], got[key]) < 1e-5, ('%s, round %d: %g'):format(
              key, round, relative(want[key], got[key])))
          t.ok(relative(want2[key], got2[key]) < 1e-5, ('%s, another size: %g'):format(
              key, relative(want2[key], got2[key])))
        end
      end
      t.ok(relative(want.out, model(x:to 'bf16').out) < 0.1, 'bf16')
      t.ok(model:fuse() == model)
      t.ok(relative(want.out, model(x).out) < 1e-5, 'fused twice')
    end)
  end

  t.case('weights are held once, and come back to the last bit', function()
    local conv = nn.Conv2d(96, 128, 3, {padding = 1, bias = false})
    local net = nn.Sequential(conv, nn.BatchNorm2d(128, {activation = 'relu'})):eval():fuse()
    local x = dlv3.randn{1, 96, 14, 15}
    local plain, before = conv.weight:clone(), dlv3.memory().live
    local y = net(x)
    local bytes = plain:numel() * 4
    t.ok(dlv3.memory().live - y:numel() * 4 < before - bytes / 2, 'the plain weight is gone')
    t.ok(not conv.weight:is_released())
    t.eq(conv.weight, plain)
    net(x)
    for _, impl in ipairs {'direct', 'ref', 'onednn', 'direct'} do
      runtime.set_implementation(impl)
      local again = net(x)
      runtime.set_implementation('')
      t.close(again, y, 1e-5, 1e-4, impl)
      t.eq(conv.weight, plain, impl)
    end
    dlv3.no_grad(function() conv.weight:mul_(2) end) -- a frozen weight that is changed all the same
    t.close(net(x), x:conv2d(plain * 2, conv.bias, {padding = 1, activation = 'relu'}), 1e-4, 1e-4)
  end)

  t.case('scopes and release reach a weight that is held in packed form only', function()
    local conv
    dlv3.scope(function()
      conv = nn.Conv2d(64, 64, 3, {padding = 1})
      conv:eval():fuse()
      conv(dlv3.randn{1, 64, 12, 12})
    end)
    t.ok(conv.weight:is_released())
    t.error(function() conv(dlv3.randn{1, 64, 12, 12}) end, 'w was released')
  end)

  t.case("a convolution's own bias, and parts that are used twice", function()
    local net = settled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1),
                                      nn.BatchNorm2d(4, {activation = 'hardswish'})))
    local x = dlv3.randn{2, 3, 9, 9}
    local want = dlv3.no_grad(net, x)
    t.ok(relative(want, net:fuse()(x)) < 1e-5)
    local shared = nn.Conv2d(4, 4, 1)
    local twice = settled(nn.Sequential(shared, nn.BatchNorm2d(4), shared, nn.BatchNorm2d(4)))
    x = dlv3.randn{1, 4, 3, 3}
    want = dlv3.no_grad(twice, x)
    t.eq(twice:fuse()(x), want)
    local Head = nn.module('Head', function(self)
      self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    end)
    function Head:forward(v) return self.bn(self.conv(v):relu()) end -- not neighbours, whatever their order
    local head = settled(Head())
    want = dlv3.no_grad(head, x)
    t.eq(head:fuse()(x), want)
  end)

  t.case('the gradient of the input of a fused model', function()
    local net = settled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    local function gradient()
      local x = dlv3.ones({1, 3, 9, 9}, {requires_grad = true})
      net(x):sum():backward()
      return x.grad
    end
    local want = gradient()
    net:fuse()
    for _ = 1, 2 do t.ok(relative(want, gradient()) < 1e-5) end
  end)

  t.case('what is refused', function()
    local net = settled(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))):fuse()
    local v = dlv3.ones{1, 4, 2, 2}
    t.error(function() return net[2](net[1](v), v) end,
            'it was folded into its convolution, which has to add the residual: write bn:after')
    local model = models.deeplabv3_mobilenet_v3_large{num_classes = 3}
    t.error(function() model:fuse() end, "test_fuse.lua:%d+: fuse: 'backbone.0.1' is in training mode, "
                                         .. ".*model:eval%(%):fuse%(%)")
    model:eval():fuse()
    t.error(function() model:train() end, 'test_fuse.lua:%d+: train: a fused model is for inference only')
    t.error(function() model:state_dict() end, 'state_dict: a fused model')
    t.error(function() model:load_state_dict{} end, 'state_dict: a fused model')
  end)
end
