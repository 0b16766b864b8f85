"""The front-end benchmark: the cost of the service itself, with a model that costs next to nothing."""
