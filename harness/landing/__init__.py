"""Where a probe landed."""
