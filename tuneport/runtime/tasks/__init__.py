"""The tasks at inference time: one module each, with a class `Task`."""
