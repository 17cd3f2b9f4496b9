"""Experiments, a method a file: whatever lies here is found by itself."""
