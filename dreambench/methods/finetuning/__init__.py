"""Methods that train on the photos of a subject."""
