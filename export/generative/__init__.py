"""Export generative models: their checkpoints, their torch reference and their ONNX graphs."""
