"""Methods that search a generator's latents for an image that another network likes."""
