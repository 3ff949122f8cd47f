"""Activations as codes, and exact sums of them."""
