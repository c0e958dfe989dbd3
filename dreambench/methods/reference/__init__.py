"""Baselines that any method is held against."""
