"""A SOCKS5 client's messages (RFC 1928) with the login of RFC 1929, all of them sent in one write.

Nothing that the client says depends on what the server answers, so method selection, login and request may leave
together, and a connection costs one round trip. What comes back is read to its last byte and no further: the
connection's data follow at once.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

IPAddress = IPv4Address | IPv6Address

VERSION: Final = 5
LOGIN_VERSION: Final = 1  # of the subnegotiation, RFC 1929 section 2
METHOD_LOGIN: Final = 0x02
METHOD_NONE_ACCEPTABLE: Final = 0xFF
COMMAND_CONNECT: Final = 1
ADDRESS_IPV4: Final = 1
ADDRESS_NAME: Final = 3
ADDRESS_IPV6: Final = 4
MAX_LOGIN_BYTES: Final = 255

# Reply field, RFC 1928 section 6.
SUCCEEDED: Final = 0
GENERAL_FAILURE: Final = 1
NOT_ALLOWED: Final = 2
NETWORK_UNREACHABLE: Final = 3
HOST_UNREACHABLE: Final = 4
CONNECTION_REFUSED: Final = 5
TTL_EXPIRED: Final = 6
COMMAND_NOT_SUPPORTED: Final = 7
ADDRESS_NOT_SUPPORTED: Final = 8

# Method selection, login status, and the reply as far as the address type: what every answer has.
_ANSWER_HEAD: Final = struct.Struct("!BBBBBBBB")
_BOUND_LENGTHS: Final = {ADDRESS_IPV4: 4, ADDRESS_IPV6: 16}
_SHORTEST_ANSWER: Final = _ANSWER_HEAD.size + min(_BOUND_LENGTHS.values()) + 2


class SocksError(Exception):
    """What the server said is not SOCKS5, or it did not take the login."""


def connect_messages(user: str, password: str, destination: IPAddress, port: int) -> bytes:
    """Method selection, login and CONNECT, to be sent as one.

    Args:
        user, password: 1 to 255 bytes in UTF-8 each.
        destination: where to; an address, never a name.
        port: 0 to 65535.

    Raises:
        ValueError: user or password has no byte, or too many.
    """
    login = bytearray((LOGIN_VERSION,))
    for field in (user, password):
        data = field.encode()
        if not 1 <= len(data) <= MAX_LOGIN_BYTES:
            raise ValueError(f"a SOCKS5 login has 1 to {MAX_LOGIN_BYTES} bytes per field, not {len(data)}")
        login.append(len(data))
        login += data
    kind = ADDRESS_IPV4 if destination.version == 4 else ADDRESS_IPV6
    return b"".join(
        (
            bytes((VERSION, 1, METHOD_LOGIN)),
            login,
            bytes((VERSION, COMMAND_CONNECT, 0, kind)),
            destination.packed,
            port.to_bytes(2, "big"),
        )
    )


class ReplyReader:
    """Reads the server's answers to `connect_messages`.

    Attributes:
        wanted: how many bytes to read next, at most; 0 once all is read.
        code: the reply field, once all is read.
    """

    __slots__ = ("_data", "_end", "code", "wanted")

    def __init__(self) -> None:
        self._data = bytearray()
        self._end = 0
        self.wanted = _SHORTEST_ANSWER
        self.code: int | None = None

    def feed(self, data: bytes) -> bool:
        """Take up to `wanted` bytes; True once the reply is complete and the connection's own bytes follow.

        Raises:
            SocksError: this is no answer of a server that took the login.
            ValueError: more than `wanted`.
        """
        if len(data) > self.wanted:
            raise ValueError("bytes of the connection were read with the reply")
        held = self._data
        held += data
        # Each byte as it comes: a server that refuses says so and closes, and never sends the rest.
        if len(held) >= 2:
            if held[0] != VERSION:
                raise SocksError(f"the server speaks version {held[0]}, not {VERSION}")
            if held[1] != METHOD_LOGIN:
                raise SocksError("the server does not take a user name")
        if len(held) >= 4 and (held[2] != LOGIN_VERSION or held[3] != 0):
            raise SocksError("the server does not take this user name")
        if not self._end and len(held) >= _ANSWER_HEAD.size:
            version, code, reserved, kind = held[4 : _ANSWER_HEAD.size]
            if version != VERSION or reserved != 0 or kind not in _BOUND_LENGTHS:
                raise SocksError("the server's reply is malformed")
            self.code = code
            self._end = _ANSWER_HEAD.size + _BOUND_LENGTHS[kind] + 2
        self.wanted = (self._end or _SHORTEST_ANSWER) - len(held)
        return self._end > 0 and not self.wanted
