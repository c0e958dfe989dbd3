"""The machine that a run is on: its devices, their throughput, and the versions it has."""
