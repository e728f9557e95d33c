"""Tasks: prompts with reference answers, and verifiers that decide whether a completion is right."""
