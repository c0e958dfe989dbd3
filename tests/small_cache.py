"""What tests of extraction and its cache share: rows of files, and a look into the cache."""

import sqlite3

from dreambench.encoders.extraction import extract_files
from dreambench.encoders.feature_cache import FILE_NAME, FeatureCache
from dreambench.encoders.pace import Pace
from dreambench.progress import no_progress


def run(paths, readers, root, **pace):
    """Features of files by each of the readers, with the cache at `root`."""
    return extract_files(paths, readers, cache_dir=root, progress=no_progress, pace=Pace(**pace))


def database(root):
    """The cache's file, open."""
    return sqlite3.connect(root / "embeddings" / FILE_NAME, isolation_level=None)


def n_rows(root):
    """How many rows there are by identity and kind."""
    with FeatureCache(root) as cache:
        return {(held.identity, held.kind): held.n_rows for held in cache.describe()}
