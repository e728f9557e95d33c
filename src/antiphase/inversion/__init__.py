"""The inversion of sampled rollouts as a reward, for any training engine: options, measurement, reward and metrics.

Nothing here imports a trainer. `antiphase.training` connects this package to TRL.
"""
