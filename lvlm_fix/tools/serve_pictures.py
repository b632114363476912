"""Pictures that come inside a request: `data:` URLs, by content and within limits."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from PIL import Image

from lvlm_fix.errors import ImageError
from lvlm_fix.images import open_image

__all__ = ["bytes_of", "picture"]

# by content, never by name; none of these starts a program or follows a reference
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def bytes_of(url: str) -> bytes:
    """The bytes in a `data:` URL: base64, or percent-encoded. Raises `ImageError`.

    Any other address is refused unread.
    """
    match = re.match(r"(?i)data:([^,]*),", url)
    if match is None:
        raise ImageError(
            "pictures must be data: URLs (data:image/jpeg;base64,...); the server opens no file"
            " and no address"
        )
    data = unquote_to_bytes(url[match.end() :])
    if not match[1].lower().rstrip().endswith(";base64"):
        return data
    plain = b"".join(data.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError(f"the data: URL is not base64: {error}") from None


def picture(data: bytes, pixels: int) -> Image.Image:
    """An upright RGB picture of at most `pixels` from encoded bytes. Raises `ImageError`."""
    return open_image(data, pixels=pixels, formats=FORMATS)
