-- Samples of the ops over all ranks, as one process runs them; see tests/harness.lua for the
-- fields. Several ranks: tests/unit/test_world.lua.

return {
  {op = 'all_reduce_', inputs = {{3, 5}}},
  {op = 'all_reduce_', inputs = {{4, dtype = 'i64', high = 9}}},
  {op = 'all_reduce_', inputs = {{0}}},
  {op = 'all_reduce_', inputs = {{4, dtype = 'bool'}}, error = 'all_reduce_: x is bool, which has no sum: cast it'},
  {op = 'all_reduce_start_', inputs = {{3, 5}}},
  {op = 'all_reduce_start_', inputs = {{4, dtype = 'bool'}}, error = 'all_reduce_start_: x is bool'},
  {op = 'all_reduce_finish_', inputs = {{3, 5}}},
  {op = 'all_reduce_finish_', inputs = {{4, dtype = 'bool'}}, error = 'all_reduce_finish_: x is bool'},
  {op = 'all_gather', inputs = {{3, 5}}},
  {op = 'all_gather', inputs = {{2, 3, 4, 5}}},
  {op = 'all_gather', inputs = {{dtype = 'i64'}}, error = 'all_gather: x must have an axis to be joined along'},
  {op = 'broadcast_', inputs = {{3, 5}}, attrs = {root = 0}},
  {op = 'broadcast_', inputs = {{3}}, attrs = {root = 1}, error = 'broadcast_: root 1: expected a rank from 0 to 0'},
  {op = 'barrier', inputs = {{2}}},
  {op = 'barrier', inputs = {}, error = 'barrier: x must be a tensor'},
}
