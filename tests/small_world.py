"""A small set of pictures that mini's models are trained on."""

from dreambench.mini.training.data import WorldSet, write_split


def make_world(folder):
    """Five shots of each of eight identities."""
    write_split(folder, "train", n_identities=8, n_workers=1)
    return WorldSet(folder / "train")
