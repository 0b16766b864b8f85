"""One command that proves the project on a GPU, or refutes it: `python -m tuneport.stages.benchmarks.gpu_check`."""
