"""Open Inference Protocol v2, over HTTP (`http.py`) and gRPC (`serve/grpc.py`); `tensors.py` is what both share."""
