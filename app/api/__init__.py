"""HTTP in, calls out, and back; one file a resource, no mathematics."""
