"""Engines that complete prompts behind one interface: transformers and vLLM."""
