"""One module a task: what comes in, and what the outputs mean."""
