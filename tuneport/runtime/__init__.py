"""Inference, from an input to its prediction: parse, encode, batch, run, decode. Encoders need no torch."""
