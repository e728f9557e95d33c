"""Measure the two signals of every generated token: its entropy and its gradient strength (docs/method.md)."""
