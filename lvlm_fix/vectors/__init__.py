"""Vectors that steer the hidden states, one per layer for some layers: what they are, the files
that hold them, and how to make them.
"""
