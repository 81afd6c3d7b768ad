-- Samples of the ops that move elements; see tests/harness.lua for the fields.

local S = {}
local function add(sample) S[#S + 1] = sample end

for _, p in ipairs {{{2, 6}, {3, 4}}, {{2, 3, 5, 4}, {2, 60}}, {{2, 60}, {2, 3, 5, 4}}, {{2, 3, 5, 4}, {6, -1}},
                    {{4, 1, 3}, {1, 4, 3, 1}}, {{0, 3}, {0, 5}}, {{1}, {}},
                    {{2, 3, 1, 1}, {2, 3}}, {{6, 4}, {2, 3, 2, 2}}} do
  add {op = 'reshape', inputs = {p[1]}, attrs = {size = p[2]}}
end
add {op = 'reshape', inputs = {{5, dtype = 'i64'}}, attrs = {size = {5, 1}}}
add {op = 'reshape', inputs = {{2, 3}}, attrs = {size = {4, 2}}, error = 'reshape: 6 elements do not make %[4, 2%]'}
add {op = 'reshape', inputs = {{2, 3}}, attrs = {size = {-1, -1}}, error = 'reshape: 6 elements do not make'}

add {op = 'permute', inputs = {{2, 3, 4}}, attrs = {axes = {3, 1, 2}}}
add {op = 'permute', inputs = {{2, 3, 5, 4}}, attrs = {axes = {1, 3, 4, 2}}}
add {op = 'permute', inputs = {{2, 3}}, attrs = {axes = {1, 1}}, error = 'permute: every axis must be named once'}

add {op = 'narrow', inputs = {{5, 6}}, attrs = {axis = 2, start = 3, length = 2}}
add {op = 'narrow', inputs = {{2, 3, 5, 4}}, attrs = {axis = 2, start = -2, length = 2}}
add {op = 'narrow', inputs = {{7, 2}}, attrs = {axis = 1, start = 2, length = 3, step = 2}}
add {op = 'narrow', inputs = {{7, 2}}, attrs = {axis = 1, start = 8, length = 0}}
add {op = 'narrow', inputs = {{5}}, attrs = {axis = 1, start = 4, length = 3},
     error = 'narrow: 3 elements from position 4 by 1 do not lie within axis 1, which has 5'}
add {op = 'narrow', inputs = {{2000}}, attrs = {axis = 1, start = 1, length = 1100, step = 2 ^ 53},
     error = 'narrow: 1100 elements from position 1'}
add {op = 'narrow', inputs = {{2000, 3}}, attrs = {axis = 1, start = 5, length = 1, step = 2 ^ 53}}
add {op = 'narrow_backward', inputs = {{1100}}, attrs = {size = {2000}, axis = 1, start = 0, step = 2 ^ 53},
     error = 'narrow_backward: grad_y does not lie within size'}
add {op = 'narrow_backward', inputs = {{3, 2}}, attrs = {size = {7, 2}, axis = 1, start = 1, step = 2}}
add {op = 'narrow_backward', inputs = {{2, 3, 2, 4}}, attrs = {size = {2, 3, 5, 4}, axis = 3, start = 2}}
add {op = 'narrow_backward', inputs = {{3}}, attrs = {size = {4}, axis = 1, start = 2},
     error = 'narrow_backward: grad_y does not lie within size'}

add {op = 'unsqueeze', inputs = {{3, 4}}, attrs = {axis = 1}}
add {op = 'unsqueeze', inputs = {{2, 3, 4}}, attrs = {axis = -1}}
add {op = 'unsqueeze', inputs = {{3}}, attrs = {axis = 4}, error = 'unsqueeze: no axis 4'}
add {op = 'squeeze', inputs = {{3, 1, 4}}, attrs = {axis = 2}}
add {op = 'squeeze', inputs = {{2, 3, 1, 1}}, attrs = {axis = -1}}
add {op = 'squeeze', inputs = {{3, 4}}, attrs = {axis = 1}, error = 'squeeze: axis 1 has size 3, not 1'}
add {op = 'expand', inputs = {{3, 1}}, attrs = {size = {2, 3, 4}}}
add {op = 'expand', inputs = {{2, 3, 1, 1}}, attrs = {size = {-1, 3, 5, 4}}}
add {op = 'expand', inputs = {{3}}, attrs = {size = {4}}, error = 'expand: axis 1 of size 3 can not become 4'}

add {op = 'expand', inputs = {{1}}, attrs = {size = {2 ^ 40, 2 ^ 40}},
     error = 'expand: the result has too many elements'}

add {op = 'contiguous', inputs = {{2, 3, 5, 4}}}
add {op = 'contiguous', inputs = {false}, error = 'contiguous: x must be a tensor'}

add {op = 'cat', inputs = {{2, 3}, {4, 3}}, attrs = {axis = 1}}
add {op = 'cat', inputs = {{2, 3, 5, 4}, {2, 1, 5, 4}, {2, 7, 5, 4}}, attrs = {axis = 2}}
add {op = 'cat', inputs = {{2, 0}, {2, 3}}, attrs = {axis = -1}}
add {op = 'cat', inputs = {{2, 3}, {2, 4}}, attrs = {axis = 1}, error = 'cat: tensor 2 must agree with the first'}

add {op = 'pad', inputs = {{2, 3}}, attrs = {before = {1, 0}, after = {0, 2}, value = 7}}
add {op = 'pad', inputs = {{2, 3, 5, 4}}, attrs = {before = {0, 0, 1, -1}, after = {0, 0, -2, 3}}}
add {op = 'pad', inputs = {{3}}, attrs = {before = {-2}, after = {-2}},
     error = 'pad: axis 1 of size 3 can not be padded'}
add {op = 'flip', inputs = {{2, 3, 5, 4}}, attrs = {axes = {4, 2}}}
add {op = 'flip', inputs = {{5}}, attrs = {axes = 1}}
add {op = 'flip', inputs = {{5}}, attrs = {axes = 2}, error = 'flip: no axis 2'}

add {op = 'gather', inputs = {{4, 5}, {3, 5, dtype = 'i64', low = 0, high = 4}}, attrs = {axis = 1}, wrt = {1}}
add {op = 'gather', inputs = {{2, 3, 5, 4}, {2, 1, 5, 4, dtype = 'i64', low = 0, high = 3}}, attrs = {axis = 2},
     wrt = {1}}
add {op = 'gather', inputs = {{4}, {2, dtype = 'i64', value = 4}}, attrs = {axis = 1},
     error = 'gather: index holds 4, the axis has the positions 0 to 3'}
add {op = 'gather_backward', inputs = {{3, 5}, {3, 5, dtype = 'i64', low = 0, high = 4}},
     attrs = {size = {4, 5}, axis = 1}}
add {op = 'gather_backward', inputs = {{3}, {2, dtype = 'i64'}}, attrs = {size = {4}, axis = 1},
     error = 'gather_backward: index must be %[3%]'}
add {op = 'gather_backward', inputs = {{3, 5}, {3, 5, dtype = 'i64'}}, attrs = {size = {1, 5}, axis = 2},
     error = 'gather_backward: grad_y must have the dimensions of size'}
add {op = 'index_select', inputs = {{4, 5}, {7, dtype = 'i64', low = 0, high = 5}}, attrs = {axis = 2}, wrt = {1}}
add {op = 'index_select', inputs = {{2, 3, 5, 4}, {2, dtype = 'i64', low = 0, high = 3}}, attrs = {axis = 2}, wrt = {1}}
add {op = 'index_select', inputs = {{4}, {1, dtype = 'i64', value = -1}}, attrs = {axis = 1},
     error = 'index_select: index holds %-1'}
add {op = 'index_select_backward', inputs = {{4, 7}, {7, dtype = 'i64', low = 0, high = 5}},
     attrs = {size = {4, 5}, axis = 2}}
add {op = 'index_select_backward', inputs = {{4, 7}, {6, dtype = 'i64'}}, attrs = {size = {4, 5}, axis = 2},
     error = 'index_select_backward: grad_y, index and size do not agree'}
add {op = 'index_select_backward', inputs = {{4000, 5}, {5, dtype = 'i64'}}, attrs = {size = {1, 5}, axis = 2},
     error = 'index_select_backward: grad_y, index and size do not agree'}
add {op = 'one_hot', inputs = {{3, 4, dtype = 'u8', low = 0, high = 5}}, attrs = {num_classes = 5}}
add {op = 'one_hot', inputs = {{6, dtype = 'i64', value = 9}}, attrs = {num_classes = 5},
     error = 'one_hot: index holds 9'}

return S
