"""Pages for a browser: one look, one way to escape, nothing fetched from anywhere."""
