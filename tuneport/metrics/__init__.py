"""Task metrics, each defined once for training, gate and benchmarks."""
