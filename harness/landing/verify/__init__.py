"""Probes of an external module, verified in a guest."""
