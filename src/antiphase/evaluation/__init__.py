"""Evaluate models on tasks, compare them, and say how sure that is. With training it shares saved artefacts alone."""
