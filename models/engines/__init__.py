"""Inference engines behind one protocol. Importing it loads neither torch nor vLLM; an engine's module does."""
