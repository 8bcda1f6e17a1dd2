"""The pytest side: which cells there are, in which order they run, on which guests, and what is kept of each."""
