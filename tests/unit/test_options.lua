-- test_options.lua - the command line of scripts, and the names suggested for unknown ones.

local options = require 'dlv3.cli.options'
local suggest = require 'dlv3.core.suggest'

local spec = {
  doc = 'Trains.',
  'Data:',
  {'data-path', 'data', 'folder that holds VOCdevkit', value = 'DIR'},
  {'batch-size', 4, 'images a step', short = 'b', min = 1, max = 512},
  'Optimiser:',
  {'lr', 1e-4, 'learning rate'},
  {'power', 1, 'of the schedule', type = 'number'},
  {'weight-decay', 1e-4, 'L2 penalty', alias = 'wd'},
  {'precision', 'f32', 'of activations', choices = {'f32', 'bf16'}},
  {'aux', true, 'train the auxiliary head'},
  {'overlay', false, 'draw over the photo'},
  {'atrous-rates', {12, 24, 36}, 'of the ASPP'},
  {'names', {}, 'of the classes', type = 'list'},
  {'weights', nil, 'checkpoint', value = 'FILE'},
}
local with_files = {{'weights', nil, 'checkpoint', required = true},
                    {'photo', nil, 'JPEG or PNG', positional = true, min = 1}}

local function try(...) return options.try(spec, {[0] = 'train.lua', ...}) end

return function(t)
  local function message(pattern, ...)
    local opt, text = try(...)
    t.ok(opt == nil, 'expected a usage error for ' .. table.concat({...}, ' '))
    t.ok(text:find(pattern, 1, true), ('expected "%s" in "%s"'):format(pattern, text))
  end

  t.case('defaults', function()
    local opt, given = try()
    t.eq(opt, {data_path = 'data', batch_size = 4, lr = 1e-4, power = 1, weight_decay = 1e-4, precision = 'f32',
               aux = true,
               overlay = false, atrous_rates = {12, 24, 36}, names = {}})
    t.eq(given, {})
  end)

  t.case('values in every spelling', function()
    t.eq(try('--lr', '0.01').lr, 0.01)
    t.eq(try('--lr=1e-2').lr, 0.01)
    t.eq(try('--lr', '-1').lr, -1)
    t.eq(try('-b', '8').batch_size, 8)
    t.eq(try('-b8').batch_size, 8)
    t.eq(try('-b=8').batch_size, 8)
    t.eq(try('--wd', '0').weight_decay, 0)
    t.eq(try('--weight-decay', '0.5').weight_decay, 0.5)
    t.eq(try('--power', '0.9').power, 0.9)
    t.eq(try('--data-path=').data_path, '')
    t.eq(try('--data-path', 'a=b').data_path, 'a=b')
    t.eq(try('--atrous-rates', '6, 12,18').atrous_rates, {6, 12, 18})
    t.eq(try('--names', 'cat,dog').names, {'cat', 'dog'})
    t.eq(try('--lr', '1', '--lr', '2').lr, 2)
    local _, given = try('--wd', '0', '--no-aux')
    t.eq(given, {weight_decay = true, aux = true})
  end)

  t.case('values from elsewhere', function()
    local own = {{'epochs', 3, 'passes', min = 1}, {'model', 'a', 'which', choices = {'a', 'b'}}}
    t.eq(options.misfit(own, 'epochs', 2), nil)
    t.eq(options.misfit(own, 'epochs', 0), '--epochs: expected a whole number from 1, got 0')
    t.eq(options.misfit(own, 'epochs', 1.5), "--epochs: expected a whole number from 1, got 1.5")
    t.eq(options.misfit(own, 'model', 'c'), "--model: expected a or b, got 'c'")
  end)

  t.case('booleans', function()
    for _, word in ipairs {'false', '0', 'no', 'off', 'False'} do t.eq(try('--aux', word).aux, false, word) end
    for _, word in ipairs {'true', '1', 'yes', 'on', 'TRUE'} do t.eq(try('--overlay', word).overlay, true, word) end
    t.eq(try('--overlay').overlay, true)
    t.eq(try('--no-aux').aux, false)
    t.eq(try('--no-aux', '--aux').aux, true)
    t.eq(try('--aux=no').aux, false)
  end)

  t.case('positional arguments', function()
    local opt = options.try(with_files, {'a.jpg', '--weights', 'w.pth', '-', '--', '--odd'})
    t.eq(opt, {weights = 'w.pth', photo = {'a.jpg', '-', '--odd'}})
    local none, text = options.try(with_files, {'--weights', 'w.pth'})
    t.ok(none == nil and text:find('PHOTO must be given', 1, true), text)
    none, text = options.try(with_files, {'a.jpg'})
    t.ok(none == nil and text:find('--weights STRING must be given: checkpoint', 1, true), text)
  end)

  t.case('messages say what was expected', function()
    message("no option '--epoch'", '--epoch', '3')
    message("no option '--batchsize'; did you mean '--batch-size'?", '--batchsize', '3')
    message("no option '--no-aus'; did you mean '--no-aux'?", '--no-aus')
    message("no option '-lr'; did you mean '--lr'?", '-lr', '3')
    message("--lr: expected a number, got 'fast'", '--lr', 'fast')
    message("-b: expected a whole number from 1 to 512, got 1.5", '-b', '1.5')
    message('-b: expected a whole number from 1 to 512, got 0', '-b', '0')
    message('-b: expected a whole number from 1 to 512, got 1000', '--batch-size=8', '-b', '1000')
    message("--aux: expected true or false, got 'maybe'", '--aux=maybe')
    message("--precision: expected f32 or bf16, got 'bf61'; did you mean 'bf16'?", '--precision', 'bf61')
    message("--atrous-rates: expected numbers with commas between them, as in 12,24,36, got '6,x'", '--atrous-rates',
            '6,x')
    message('--lr: expected a number after it', '--lr')
    message('--lr: expected a number after it', '--lr', '--aux')
    message("'maybe' is not understood here", '--aux', 'maybe')
    message("expected a number, got nan", '--lr', 'nan')
    message("expected a number, got '0x10'", '--lr', '0x10')
  end)

  t.case('help has every option and its default', function()
    local none, text, kind = try('--lr', '1', '--help')
    t.ok(none == nil)
    t.eq(kind, 'help')
    for _, part in ipairs {'usage: dlv3 train.lua [options]', 'Data:', '  -b, --batch-size N', 'images a step [4]',
                           '--[no-]aux', '[12,24,36]',
                           '--weight-decay, --wd X', 'f32, bf16 [f32]', '--weights FILE', '-h, --help'} do
      t.ok(text:find(part, 1, true), 'no "' .. part .. '" in\n' .. text)
    end
    for line in text:gmatch '[^\n]+' do t.ok(#line <= 112, 'a long line: ' .. line) end
  end)

  t.case('nearest names', function()
    t.eq(suggest.distance('kitten', 'sitting'), 3)
    t.eq(suggest.distance('relu', 'rleu'), 1)
    t.eq(suggest('strides', {'stride', 'padding'}), "did you mean 'stride'?")
    t.eq(suggest('xyz', {'stride', 'padding'}), nil)
    t.eq(suggest.text('xyz', {'stride'}), '')
    t.eq(suggest.names('deeplabv3_resnet', {'deeplabv3_resnet50', 'deeplabv3_resnet101', 'fcn'}),
         {'deeplabv3_resnet50', 'deeplabv3_resnet101'})
  end)
end
