"""The processes of a run: the controller and its pytest-xdist workers."""
