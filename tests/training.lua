-- training.lua - the training step that tests of its precisions, devices and recordings share;
-- loaded by
-- dofile(t.directory .. '/training.lua').

-- A function of images and labels that makes one step of the optimiser and returns the loss. aux:
-- with the auxiliary head; scaler: an optim.LossScaler or nil.
return function(model, optimiser, aux, scaler)
  return function(x, target)
    local out = model:logits(x)
    local loss = out.out:upsample_cross_entropy(target)
    if aux then loss = loss + out.aux:upsample_cross_entropy(target) * 0.5 end
    optimiser:zero_grad()
    if scaler then
      scaler:scale(loss):backward()
      scaler:step(optimiser)
    else
      loss:backward()
      optimiser:step()
    end
    return loss
  end
end
