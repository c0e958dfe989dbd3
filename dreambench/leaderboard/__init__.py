"""Records that anyone can check, their checks, and the board that is rendered from them."""
