"""Accuracy, noise, precision and benchmarks."""
