"""Methods that are shown a photo while they draw."""
