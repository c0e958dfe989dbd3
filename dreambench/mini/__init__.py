"""The embedded benchmark: a small world rendered by a program, and models trained on it."""
