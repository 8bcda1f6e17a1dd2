"""The guests of a run: built, frozen, thawed, and checked after each cell."""
