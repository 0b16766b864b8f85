"""A service of a tiny model: what the benchmarks of the cost of a request and of a shared engine have in common."""
