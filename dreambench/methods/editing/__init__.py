"""Methods that edit a photo of the subject."""
