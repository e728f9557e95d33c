"""Engines that generate completions of prompts, with one interface for all: transformers, vLLM and servers."""
