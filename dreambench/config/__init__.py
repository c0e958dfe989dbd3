"""What people write by hand: protocols and recipes, with faults named by file and line."""
