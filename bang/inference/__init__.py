"""Text in, text out: `Bang` (`api`), what it finds on disk (`folder`), and the engines that run it, of torch and of onnxruntime."""
