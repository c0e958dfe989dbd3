"""Executors: who works on units, and where. A new way to do so is a file here."""
