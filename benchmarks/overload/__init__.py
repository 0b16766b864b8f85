"""The overload benchmark: goodput and latency at twice the load that the service can carry."""
