"""Asking a model about what it wrote."""
