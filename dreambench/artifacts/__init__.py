"""What lies in a run, score or record folder: manifest, plan, image set, results."""

MAX_REPLICATES = 20
"""How many runs of one recipe are looked for. Here, since the command line imports it at start."""
