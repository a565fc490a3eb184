"""Text in, text out: `Bang` (`api`), what loads a model (`load`), and the engines that run it, of torch and of onnxruntime."""
