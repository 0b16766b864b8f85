"""Which parameters are trained: layer selection, learning rates, parameter-efficient methods."""
