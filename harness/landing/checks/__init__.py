"""Checks that one case file each uses."""
