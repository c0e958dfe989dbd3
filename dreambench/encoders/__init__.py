"""Frozen networks that turn pixels and texts into features, and the cache of these."""
