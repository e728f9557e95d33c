"""Trains with CorR-PO on TRL: the trainer, its checks, presets, callbacks, and the code of `antiphase train`."""
