"""The tasks at training time, one module each with a class `Task`."""
