"""The engine: class activation maps as solutions of a cooperative game on a split network."""
