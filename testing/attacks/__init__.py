"""Files and requests that a malicious or careless caller may send."""
