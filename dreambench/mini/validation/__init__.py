"""The metrics on pictures whose truth is known."""
