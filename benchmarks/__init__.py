"""Measures an artifact on real inputs, alone and behind servers, and writes reports."""
