"""Vectors that steer the hidden states, one for each of some layers: what they are, the files that
hold them, and how they are made.
"""
