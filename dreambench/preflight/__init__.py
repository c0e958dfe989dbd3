"""Checks before a run: what it will take, and what this machine has and lacks."""
