"""Bytes on disk: atomic writes, hashes, images in and out, shipped data, downloads, archives."""
