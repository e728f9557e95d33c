"""Probe a model: generate or read rollouts, compute the fingerprint, and write files that others can load."""
