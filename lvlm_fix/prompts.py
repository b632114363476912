"""The prompt for a photo, unless the caller gives one."""

__all__ = ["DESCRIBE"]

DESCRIBE = "Please describe this image in detail."
