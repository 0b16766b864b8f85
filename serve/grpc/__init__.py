"""The gRPC server: Open Inference Protocol, health, reflection."""
