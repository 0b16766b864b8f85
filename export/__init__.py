"""Export a checkpoint to an artifact: convert it to ONNX, build variants, check them against torch, benchmark them."""
