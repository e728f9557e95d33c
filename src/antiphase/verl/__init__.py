"""Connects the inversion reward to verl, which trains on clusters (docs/verl.md).

verl loads the module `plugin` in each of its processes, through the entry point group `verl.plugins`. Only the modules
`plugin`, `trainer` and `worker` import verl. The arithmetic of the reward is that of `antiphase.inversion`, which the
TRL trainer uses too.
"""
