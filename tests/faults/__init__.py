"""Faults and hostile inputs: the shim and the fuzzer that tests and benchmarks/faults.py share."""
