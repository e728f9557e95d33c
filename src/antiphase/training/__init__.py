"""CorR-PO on TRL: the trainer, its metrics, presets, guard-rails and the command's engine."""
