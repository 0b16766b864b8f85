"""Several models in one service, and several versions of a model: by name, by weight, and as a shadow."""
