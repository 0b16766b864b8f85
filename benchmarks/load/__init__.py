"""The load generator, and a server that does no work to measure it against."""
