"""The engines that complete prompts, transformers and vLLM, behind one interface."""
