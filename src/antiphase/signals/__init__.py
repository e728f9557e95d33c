"""The two signals of every generated token: entropy, and the strength of the logit gradient (docs/method.md)."""
