"""One engine process that several workers share: its process, the workers' side, and the shared memory between them."""
