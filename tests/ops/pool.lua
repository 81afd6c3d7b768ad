-- pool.lua - samples of the pooling ops. A derivative of a maximum needs the elements of a window
-- apart: gradcheck moves one by 1e-6, and normal random numbers are far enough from each other.

local function index(sizes, high) local t = {unpack(sizes)} t.dtype, t.low, t.high = 'u8', 0, high return t end

return {
  {op = 'max_pool2d', inputs = {{2,5,7,6}}, attrs = {kernel_size = 3, stride = 2, padding = 1}},
  {op = 'max_pool2d', inputs = {{1,1,1,9}}, attrs = {kernel_size = {1,3}, stride = 1}},
  {op = 'max_pool2d', inputs = {{3,2,4,4}}, attrs = {kernel_size = 2}},
  {op = 'max_pool2d', inputs = {{1,3,9,8}}, attrs = {kernel_size = {3,2}, stride = {1,3}, padding = {1,0},
                                                     dilation = {2,1}}},
  {op = 'max_pool2d', inputs = {{1,70,8,5}}, attrs = {kernel_size = 3, stride = 2, padding = 1}},
  {op = 'max_pool2d', inputs = {{1,130,20,3}}, attrs = {kernel_size = 3, stride = 2, padding = 1},
   dtypes = {'f32', 'bf16'}, grad = false},
  {op = 'max_pool2d', inputs = {{2,16,9,10}}, attrs = {kernel_size = 3, stride = 2, padding = 1}, grad = false},
  {op = 'max_pool2d', inputs = {{1,8,9,8}}, attrs = {kernel_size = {3,2}, stride = {1,3}, padding = {1,0},
                                                     dilation = {2,1}}, grad = false},
  {op = 'max_pool2d', inputs = {{1,2,5,5}}, attrs = {kernel_size = 3, padding = 2},
   error = 'padding must be from 0 to half of kernel_size'},
  {op = 'max_pool2d', inputs = {{1,2,2,5}}, attrs = {kernel_size = 3},
   error = 'the window covers 3 elements, x with its padding only 2'},

  {op = 'max_pool2d_backward', inputs = {{2,5,4,3}, index({2,5,4,3}, 9)},
   attrs = {size = {7,6}, kernel_size = 3, stride = 2, padding = 1}},
  {op = 'max_pool2d_backward', inputs = {{1,70,2,2}, index({1,70,2,2}, 4)}, attrs = {size = {5,4}, kernel_size = 2}},
  {op = 'max_pool2d_backward', inputs = {{2,16,5,7}, index({2,16,5,7}, 9)},
   attrs = {size = {9,13}, kernel_size = 3, stride = 2, padding = 1}},
  {op = 'max_pool2d_backward', inputs = {{1,8,7,3}, index({1,8,7,3}, 6)},
   attrs = {size = {9,8}, kernel_size = {3,2}, stride = {1,3}, padding = {1,0}, dilation = {2,1}}},
  {op = 'max_pool2d_backward', inputs = {{2,8,1,1}, index({2,8,1,1}, 4)},
   attrs = {size = {2,3}, kernel_size = 2, stride = 5}},
  {op = 'max_pool2d_backward', inputs = {{1,2,4,3}, index({1,2,4,3}, 9)},
   attrs = {size = {9,6}, kernel_size = 3, stride = 2, padding = 1}, error = 'grad_y must be 5x3'},

  {op = 'adaptive_avg_pool2d', inputs = {{2,5,7,6}}, attrs = {size = 1}},
  {op = 'adaptive_avg_pool2d', inputs = {{1,1,1,9}}, attrs = {size = 1}},
  {op = 'adaptive_avg_pool2d', inputs = {{1,3,7,5}}, attrs = {size = {3,2}}},
  {op = 'adaptive_avg_pool2d', inputs = {{1,2,3,2}}, attrs = {size = {5,4}}},
  {op = 'adaptive_avg_pool2d', inputs = {{2,67,9,11}}, attrs = {size = 1}, dtypes = {'f32', 'bf16'}, grad = false},
  {op = 'adaptive_avg_pool2d', inputs = {{2,264,20,11}}, attrs = {size = 1}, grad = false}, -- sums in parts
  {op = 'adaptive_avg_pool2d', inputs = {{2,16,19,17}}, attrs = {size = {2,1}}, grad = false},
  {op = 'adaptive_avg_pool2d', inputs = {{1,8,7,5}}, attrs = {size = {3,2}}, grad = false},
  {op = 'adaptive_avg_pool2d', inputs = {{2,3,4}}, attrs = {size = 1}, error = 'x must have 4 dimensions'},

  {op = 'adaptive_avg_pool2d_backward', inputs = {{2,5,1,1}}, attrs = {size = {7,6}}},
  {op = 'adaptive_avg_pool2d_backward', inputs = {{1,3,3,2}}, attrs = {size = {7,5}}},
  {op = 'adaptive_avg_pool2d_backward', inputs = {{2,264,1,1}}, attrs = {size = {20,11}}},
  {op = 'adaptive_avg_pool2d_backward', inputs = {{1,16,3,2}}, attrs = {size = {7,5}}},
  {op = 'adaptive_avg_pool2d_backward', inputs = {{1,3,3,2}}, attrs = {size = {0,5}}, error = 'must be at least 1x1'},
}
