"""mac1, mac2 and cookies (whitepaper sections 5.3, 5.4.4 and 5.4.7): what a handshake message must prove first.

mac1 proves that the sender knows our public key; mac2, required under load, that it receives at its source address.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from lopower.wire.wireguard import COOKIE_NONCE_SIZE, MAC_SIZE, CookieReply
from lopower.wireguard.constants import COOKIE_LIFETIME

LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"
_NO_MAC: Final = bytes(MAC_SIZE)


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(key: bytes, message: bytes) -> bytes:
    """Keyed BLAKE2s with 16 bytes of output."""
    return hashlib.blake2s(message, key=key, digest_size=MAC_SIZE).digest()


class CookieChecker:
    """The receiver's side: checks the MACs of what comes in, and hands out cookies."""

    __slots__ = ("_cookie_key", "_entropy", "_mac1_key", "_secret", "_secret_born")

    def __init__(self, public_key: bytes, entropy: Callable[[int], bytes]) -> None:
        self._mac1_key = _hash(LABEL_MAC1, public_key)
        self._cookie_key = _hash(LABEL_COOKIE, public_key)
        self._entropy = entropy
        self._secret = b""
        self._secret_born = 0.0

    def has_valid_mac1(self, message: bytes) -> bool:
        """In constant time, and before any Diffie-Hellman."""
        expected = mac(self._mac1_key, message[: -2 * MAC_SIZE])
        return hmac.compare_digest(expected, message[-2 * MAC_SIZE : -MAC_SIZE])

    def has_valid_mac2(self, message: bytes, source: bytes, now: float) -> bool:
        """`source` is the packed IP address and the port."""
        expected = mac(self._cookie(source, now), message[:-MAC_SIZE])
        return hmac.compare_digest(expected, message[-MAC_SIZE:])

    def reply_to(self, message: bytes, source: bytes, now: float) -> bytes:
        """A cookie reply to a handshake message whose mac1 is valid."""
        nonce = self._entropy(COOKIE_NONCE_SIZE)
        encrypted_cookie = crypto_aead_xchacha20poly1305_ietf_encrypt(
            self._cookie(source, now), message[-2 * MAC_SIZE : -MAC_SIZE], nonce, self._cookie_key
        )
        return CookieReply(int.from_bytes(message[4:8], "little"), nonce, encrypted_cookie).to_bytes()

    def _cookie(self, source: bytes, now: float) -> bytes:
        if not self._secret or now >= self._secret_born + COOKIE_LIFETIME:
            self._secret = self._entropy(32)
            self._secret_born = now
        return mac(self._secret, source)


class CookieGenerator:
    """The sender's side, one per peer: puts MACs on what goes out, and remembers the peer's cookie."""

    __slots__ = ("_cookie", "_cookie_born", "_cookie_key", "_last_mac1", "_mac1_key")

    def __init__(self, remote_public_key: bytes) -> None:
        self._mac1_key = _hash(LABEL_MAC1, remote_public_key)
        self._cookie_key = _hash(LABEL_COOKIE, remote_public_key)
        self._last_mac1 = b""
        self._cookie = b""
        self._cookie_born = 0.0

    def add_macs(self, message: bytes, now: float) -> bytes:
        """`message` with its mac1, and with a mac2 if there is a cookie younger than 120 s."""
        self._last_mac1 = mac(self._mac1_key, message)
        message += self._last_mac1
        if self._cookie and now < self._cookie_born + COOKIE_LIFETIME:
            return message + mac(self._cookie, message)
        self._cookie = b""
        return message + _NO_MAC

    def consume_reply(self, reply: CookieReply, now: float) -> bool:
        """Take the cookie if it answers the last mac1 that we sent; each mac1 is good for one cookie."""
        if not self._last_mac1:
            return False
        try:
            cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(
                reply.encrypted_cookie, self._last_mac1, reply.nonce, self._cookie_key
            )
        except CryptoError:
            return False
        self._cookie = cookie
        self._cookie_born = now
        self._last_mac1 = b""
        return True
