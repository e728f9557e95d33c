"""Read prompts and rollouts from files, the hub or the GSM8K questions in this package, and make token ids of them."""
