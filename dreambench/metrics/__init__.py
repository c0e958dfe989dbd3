"""Metrics: numbers per image, prompt or subject, computed from features."""
