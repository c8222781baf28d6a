"""Domain names in wire form (RFC 1035 section 3.1), which is how all of this package keeps them.

A name is `bytes`: labels with their length in front, the root's zero last, no compression. Lower case where names are
compared; `bytes.lower` is right for a whole name, since a length is at most 63 and so never an upper-case letter.
"""

from __future__ import annotations

from typing import Final

MAX_NAME_BYTES: Final = 255
MAX_LABEL_BYTES: Final = 63

ROOT: Final = b"\0"


class DomainNameError(ValueError):
    """A text that is no domain name; the message says why."""


def from_text(text: str) -> bytes:
    """The wire form, in lower case, of a name like `kitchen` or `example.org.`.

    Raises:
        DomainNameError: an empty or overlong label, an overlong name, or characters outside ASCII.
    """
    labels = text.removesuffix(".").split(".") if text != "." else []
    wire = bytearray()
    for label in labels:
        try:
            encoded = label.encode("ascii").lower()
        except UnicodeEncodeError:
            raise DomainNameError(
                f"{text!r}: names with characters outside ASCII are written in their xn-- form"
            ) from None
        if not 1 <= len(encoded) <= MAX_LABEL_BYTES:
            raise DomainNameError(f"{text!r}: each label has 1 to {MAX_LABEL_BYTES} characters")
        wire.append(len(encoded))
        wire += encoded
    wire.append(0)
    if len(wire) > MAX_NAME_BYTES:
        raise DomainNameError(f"{text!r}: a name has at most {MAX_NAME_BYTES} bytes")
    return bytes(wire)


def to_text(name: bytes) -> str:
    """For people and logs: without the final dot; bytes that could mislead as `\\ddd` (RFC 1035 section 5.1)."""
    if name == ROOT:
        return "."
    return ".".join(
        "".join(chr(byte) if 0x21 <= byte <= 0x7E and byte not in b".\\" else f"\\{byte:03}" for byte in label)
        for label in labels_of(name)
    )


def labels_of(name: bytes) -> list[bytes]:
    """The labels, leftmost first, without the root's."""
    labels = []
    offset = 0
    while length := name[offset]:
        labels.append(name[offset + 1 : offset + 1 + length])
        offset += 1 + length
    return labels


def suffixes_of(name: bytes) -> list[bytes]:
    """The name itself and its parents, longest first, without the root."""
    suffixes = []
    while length := name[0]:
        suffixes.append(name)
        name = name[1 + length :]
    return suffixes


def is_bare(name: bytes) -> bool:
    """Whether the name has a single label."""
    return 0 < name[0] == len(name) - 2


def is_within(name: bytes, zone: bytes) -> bool:
    """Whether `name` is `zone` or below it; both in lower case."""
    return name.endswith(zone) and (zone == ROOT or zone in suffixes_of(name))
