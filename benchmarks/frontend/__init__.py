"""The front-end benchmark: what the service itself costs, with a model so small that the engine costs next to nothing."""
