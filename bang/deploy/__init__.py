"""Making what is shipped of a checkpoint: a model folder (`pack`), ONNX graphs (`graph`, `export`)."""
