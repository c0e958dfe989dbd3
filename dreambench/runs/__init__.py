"""Making images: the run folder, its stages, and what fails in them."""
