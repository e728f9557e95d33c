"""Prompts and rollouts: from files, the hub, or the GSM8K questions that ship with the package, to token ids."""
