"""Probe a model: rollouts in, fingerprint out, with files that others can load."""
