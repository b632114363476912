"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from lvlm_fix.errors import DataError

__all__ = ["can_be_written", "with_folder", "write_whole", "written_whole"]


@contextmanager
def written_whole(path: str | Path) -> Generator[Path]:
    """A file beside `path` to write to. When the block ends it becomes `path`; when it fails it is
    removed, and what was there before stays. A link is followed; a device or a pipe is written to.

    Raises:
        DataError: it cannot be written; the message names the file and the reason.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        whole = path.resolve()
        part = whole.with_name(f".{whole.name}.{os.getpid()}")
        try:
            yield part
            os.replace(part, whole)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; it is as it was"
        ) from error


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes, as `written_whole`."""
    data = content.encode() if isinstance(content, str) else content
    with written_whole(path) as part:
        part.write_bytes(data)


def can_be_written(path: Path) -> Path:
    """The path, for work that writes it at its end; its folder is made.

    Raises `DataError` now if it cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        return path  # a device or a pipe
    folder = with_folder(path).resolve().parent
    if path.is_dir() or not os.access(folder, os.W_OK):
        reason = "it is a folder" if path.is_dir() else "its folder takes no files"
        raise DataError(f"cannot write {path}: {reason}")
    return path


def with_folder(path: Path) -> Path:
    """The path, its folder made. Raises `DataError` if that cannot be made."""
    try:
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; it is as it was") from error
    return path
