"""Text in, text out: `Bang` (`api`), its options and sources, what loads a model (`load`), and the engines that run it."""
