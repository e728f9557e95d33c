"""Engines that generate completions of prompts, with one interface for all: transformers and vLLM."""
