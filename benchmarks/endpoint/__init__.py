"""The endpoint benchmark: whole servers under the same load, one after the other."""
