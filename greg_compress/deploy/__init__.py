"""Deployment: the ONNX file, the proof that it computes what PyTorch does, and its measured latency."""
