"""Names of devices: DNS labels, because the gateway answers for them."""

from __future__ import annotations

import re
from typing import Final

from lopower.devices.errors import InvalidName

# Names that mean something else in the devices' DNS (RFC 6761) or in it on the proxy.
RESERVED: Final = frozenset({"gateway", "localhost", "local", "invalid", "onion"})

# RFC 1123 section 2.1: letters, digits and hyphens, no hyphen at either end; RFC 1035 section 2.3.4: 63 bytes.
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def parse_name(text: str) -> str:
    """A device's name in its canonical form: lower case.

    Raises:
        InvalidName: not a DNS label, or one with a meaning of its own.
    """
    name = text.lower()
    if name in RESERVED:
        raise InvalidName(f"the name {text!r} is reserved; choose another")
    # A label of digits alone is taken for an IPv4 address by resolvers and browsers (RFC 1123 section 2.1).
    if _LABEL.fullmatch(name) is None or name.isdecimal() or not text.isascii():
        raise InvalidName(
            f"{text[:80]!r} cannot be a device's name: names are 1 to 63 letters, digits and hyphens, "
            "with no hyphen at either end, and not digits alone"
        )
    return name
