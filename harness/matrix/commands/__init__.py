"""The commands that need a run or a guest."""
