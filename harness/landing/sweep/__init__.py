"""Sweeps: thousands of sites registered in batches."""
