"""argmin: the loop, optimizer, schedule, precision, processes, checkpoints. Knows no method, objective or task."""
