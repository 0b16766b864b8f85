"""Metrics for Prometheus: those of each model, of the engines, of the service's processes and of the GPUs."""
