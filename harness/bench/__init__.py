"""Benchmarks: Pinpoint compared with peers and with lower bounds, measured in turn in one run."""
