"""The benchmark of the cost of a request: the cost of the service itself, with a model that costs next to nothing."""
