"""QR codes (ISO/IEC 18004), for terminals and as pictures."""

from __future__ import annotations

import io
from typing import Final

import qrcode
from qrcode.constants import ERROR_CORRECT_L
from qrcode.exceptions import DataOverflowError
from qrcode.image.pil import PilImage

from lopower.devices.errors import ConfigurationUnavailable

QUIET_ZONE: Final = 4  # modules; ISO/IEC 18004 section 6.3.8
_PIXELS_PER_MODULE: Final = 8
# Two modules, one above the other, are one character. Black on white is set explicitly, because many phones do not read
# a code that a dark terminal shows inverted; the quiet zone must be white there as well.
_BLACK_ON_WHITE: Final = "\x1b[38;2;0;0;0;48;2;255;255;255m"
_RESET: Final = "\x1b[0m"
_HALF_BLOCKS: Final = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def terminal(text: str) -> str:
    """A QR code in half blocks, black on white on any terminal; ends with a newline.

    Raises:
        ConfigurationUnavailable: the text is too large for a code.
    """
    matrix = _code(text).get_matrix()
    if len(matrix) % 2:
        matrix.append([False] * len(matrix[0]))
    lines = []
    for upper, lower in zip(matrix[::2], matrix[1::2], strict=True):
        blocks = "".join(_HALF_BLOCKS[bool(above), bool(below)] for above, below in zip(upper, lower, strict=True))
        lines.append(f"{_BLACK_ON_WHITE}{blocks}{_RESET}\n")
    return "".join(lines)


def png(text: str) -> bytes:
    """A QR code as a PNG picture.

    Raises:
        ConfigurationUnavailable: the text is too large for a code.
    """
    file = io.BytesIO()
    _code(text).make_image().save(file, "PNG")
    return file.getvalue()


def _code(text: str) -> qrcode.QRCode[PilImage]:
    # The lowest level of correction gives the smallest code, and a screen has no dirt.
    code = qrcode.QRCode(
        error_correction=ERROR_CORRECT_L, box_size=_PIXELS_PER_MODULE, border=QUIET_ZONE, image_factory=PilImage
    )
    try:
        code.add_data(text.encode("utf-8"))
        code.make(fit=True)
    except (DataOverflowError, ValueError):
        raise ConfigurationUnavailable(
            f"the configuration ({len(text)} characters) is too large for a QR code; use `--format conf`, "
            "or permit fewer networks: --full-tunnel needs the fewest"
        ) from None
    return code
