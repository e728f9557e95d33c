"""Engines that complete prompts behind one interface: transformers in batches or continuously, and vLLM."""
