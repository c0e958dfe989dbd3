"""Subjects and their photos: index files, fetching, custom subjects, export."""
