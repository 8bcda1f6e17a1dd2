"""Boots kernels, loads probe modules into them, and says with evidence where the probes landed."""
