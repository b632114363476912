"""Ask the model about the objects that it names (docs/ask.md)."""

"""Asking a model about what it wrote."""
