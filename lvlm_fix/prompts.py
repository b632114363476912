"""What is asked of a photo unless a caller says otherwise."""

__all__ = ["DESCRIBE"]

DESCRIBE = "Please describe this image in detail."
