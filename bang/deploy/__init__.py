"""Shipping a model: ONNX graphs (`graph`, `export`), and the runtime without torch (`engine`, `session`, `beam`)."""
