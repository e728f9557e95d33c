"""The code that a probe and an evaluation share: options, the loop over models and batches, measuring, folders."""
