"""Networks on their devices, and the way of a picture through them."""
