"""Cells: which exist, how each ends, and the bundle of a failed one."""
