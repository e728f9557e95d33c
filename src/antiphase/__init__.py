"""antiphase: measure and train the Entropy-Gradient Inversion of reasoning models."""
