"""A page at `/` for trying the model in a browser: one file, which needs no network but this service."""
