"""Commands of the command line that need a run or a guest."""
