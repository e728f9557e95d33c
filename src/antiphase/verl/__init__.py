"""Connects the inversion reward to verl, which trains on clusters (docs/verl.md).

verl loads the module `plugin` in each of its processes, through the entry point group `verl.plugins`. Only the modules
`plugin`, `trainer` and `worker` import verl. `antiphase.inversion` computes the reward, as it does for the TRL
trainer.
"""
