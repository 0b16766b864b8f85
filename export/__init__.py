"""Checkpoint in, artifact out: convert, quantize, prove, choose."""
