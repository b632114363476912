"""What watches that pass the prompt once more, and edits that go token by token, cannot serve."""

from __future__ import annotations

from lvlm_fix.core.at import Host
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import InputError, ModelError

__all__ = ["check_sees_images", "check_one_token", "check_photos"]


def check_sees_images(host: Host) -> None:
    """Raise `ModelError` where a pass of a watch's own would see no image."""
    if host.family.runs is not host.model:
        raise ModelError(
            f"{type(host.model).__name__}: its language model generates alone; no pass of its own"
            " sees an image"
        )


def check_one_token(now: Pass, why: str) -> None:
    """Raise `InputError` where several rows behind the prompt come in one pass."""
    if now.count > max(1, now.prompt_rows):
        raise InputError(f"{why} a pass, so leave use_cache on, and drafts off")


def check_photos(now: Pass, what: str) -> None:
    """Raise `InputError` where a further turn brings a photo: `what` is known of earlier ones."""
    if now.prompt_rows and now.text.shown[:, now.start :].any():
        raise InputError(
            f"a photo came after the first answer, but {what} is known only for earlier photos:"
            " pass the whole conversation at once"
        )
