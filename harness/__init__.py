"""Boots kernels, loads probe modules into them, and reports with evidence where the probes landed."""
