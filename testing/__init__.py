"""What tests and benchmarks share: the service as a process, pictures, load, attacks and faults."""
