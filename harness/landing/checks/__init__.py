"""Checks, each used by a single case file."""
