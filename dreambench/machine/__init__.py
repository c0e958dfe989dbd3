"""What a machine is and can do: devices, throughput, cost estimates, diagnosis."""
