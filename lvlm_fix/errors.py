"""The errors of this package. Every message says what was wrong, what was found and what to do.

LvlmFixError
├── SettingError      a setting of a method or command is out of its range (also a ValueError)
├── UnknownNameError  no method, metric or family of that name
├── PluginError       a method of another package cannot be used; the message names the package
├── ModelError        the model cannot be loaded, or lacks what the methods need
├── InputError        a prompt or call that cannot be served
│   └── ImageError    an image that is missing or cannot be read
└── DataError         a file (head table, captions, answers, annotations) that cannot be used
"""

__all__ = ["DataError", "ImageError", "InputError", "LvlmFixError", "ModelError", "PluginError",
"SettingError",
           "UnknownNameError"]  # fmt: skip


class LvlmFixError(Exception):
    """Base of all errors that this package raises on purpose."""


class SettingError(LvlmFixError, ValueError):
    """A setting is out of its range."""


class UnknownNameError(LvlmFixError):
    """There is no such name; the message lists the names there are."""


class PluginError(LvlmFixError):
    """A method of another package cannot be used."""


class ModelError(LvlmFixError):
    """The model cannot be loaded, or lacks what the methods need."""


class InputError(LvlmFixError):
    """A prompt or a call that cannot be served."""


class ImageError(InputError):
    """An image is missing or cannot be read."""


class DataError(LvlmFixError):
    """A file cannot be used for what it was given for."""
