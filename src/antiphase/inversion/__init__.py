"""The inversion of sampled rollouts as a reward, for any training engine: options, measurement, term and metrics.

Nothing here imports a trainer; `antiphase.training` is what joins it to TRL.
"""
