"""Artifact in, endpoint out. Imports neither torch nor transformers."""
