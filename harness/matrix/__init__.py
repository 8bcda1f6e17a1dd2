"""The pytest side: which cells exist, in which order and on which guests they run, and what is recorded of each."""
