"""Networks in replicas, and evaluations, on a Ray cluster."""
