"""Fairlead: align language models with human feedback, from one laptop CPU to a Ray cluster."""

__version__ = "0.1.0"
