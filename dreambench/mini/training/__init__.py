"""Scripts that made the shipped weights of `mini`; run in the order of the README's section."""
