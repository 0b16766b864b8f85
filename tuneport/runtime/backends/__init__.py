"""Inference backends; each module imports one engine."""
