"""Everything of mini on a second device, which finds what was left on the CPU."""
