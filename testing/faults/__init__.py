"""Faults of machines and callers, and a service under light load that has them."""
