"""The soak test: the service under load for long, with its memory, and with faults if asked for."""
