"""Beams of our own, from the pieces of the stock beam search."""
