"""Export-time behavior of each task: one module for each, with a class `Task`."""
