"""From an input to a prediction: tokenize, batch, run, decode. Encoders need neither torch nor transformers."""
