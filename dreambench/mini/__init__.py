"""The embedded benchmark: a small world drawn by a program, and models trained on it."""
