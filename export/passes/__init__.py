"""Graph passes: each turns an ONNX graph, or a torch model, into another."""
