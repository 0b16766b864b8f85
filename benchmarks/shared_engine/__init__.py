"""The benchmark of workers that share one engine: how requests/s grow with the workers, and what a request costs."""
