"""Pictures in and out: decoding uploads, what a network sees of them, colour, overlays and PNG."""
