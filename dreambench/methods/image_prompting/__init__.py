"""Methods that are shown a photo while they generate."""
