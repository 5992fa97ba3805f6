"""Training all modes of a network together."""
