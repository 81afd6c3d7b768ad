error('the REPL is not built in yet', 0)
