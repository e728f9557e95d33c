"""Probe a model: take rollouts, compute the fingerprint, and write files that others can load."""
