"""Cookie replies as the device takes them, made by libsodium (whitepaper section 5.4.7)."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from typing import Any

import pytest
from lopower_device import counters as c
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from tests.support.micropython import SUITE


@pytest.fixture
def tunnel() -> Any:
    """Two peers; the first one's initiation is on its way."""
    if str(SUITE) not in sys.path:
        sys.path.append(str(SUITE))
    made = importlib.import_module("worlds").Tunnel()
    made.one.connect(made.now)
    made.compute(made.one)
    return made


def _reply(initiation: bytes, remote_key: bytes, cookie: bytes) -> bytes:
    key = hashlib.blake2s(b"cookie--" + remote_key).digest()
    nonce = os.urandom(24)
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, initiation[116:132], nonce, key)
    return b"\x03\x00\x00\x00" + initiation[4:8] + nonce + sealed


def _next_initiation(tunnel: Any, after: int) -> bytes:
    tunnel.flying.clear()
    tunnel.now += after
    tunnel.one.handle_timers(tunnel.now)
    tunnel.compute(tunnel.one)
    (entry,) = tunnel.flying
    initiation: bytes = entry[1]
    return initiation


def test_xchacha20_against_libsodium() -> None:
    """Any key, nonce and cookie; one changed bit opens nothing."""
    from lopower_device.cookie import open_xchacha20

    for length in (0, 16, 63, 64, 100):
        key, nonce, associated, text = os.urandom(32), os.urandom(24), os.urandom(16), os.urandom(length)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(text, associated, nonce, key)
        assert open_xchacha20(key, nonce, sealed, associated) == text
        changed = bytearray(sealed)
        changed[length // 2] ^= 4
        assert open_xchacha20(key, nonce, bytes(changed), associated) is None


def test_the_next_initiation_carries_mac2(tunnel: Any) -> None:
    """Not before its time: a cookie triggers nothing. Two minutes later it is forgotten."""
    initiation = tunnel.flying[0][1]
    assert initiation[132:] == bytes(16)
    cookie = os.urandom(16)
    tunnel.deliver(0, _reply(initiation, tunnel.one.static.remote_key, cookie))
    assert tunnel.one.counters[c.COOKIE_REPLIES_RECEIVED] == 1
    assert len(tunnel.flying) == 1
    following = _next_initiation(tunnel, 5400)
    assert following[132:] == hashlib.blake2s(following[:132], key=cookie, digest_size=16).digest()
    assert _next_initiation(tunnel, 120_000)[132:] == bytes(16)


def test_cookies_that_do_not_count(tunnel: Any) -> None:
    """A forged one, one for another message, a second one."""
    initiation = tunnel.flying[0][1]
    remote = tunnel.one.static.remote_key
    other = bytearray(initiation)
    other[116] ^= 1
    tunnel.deliver(0, _reply(bytes(other), remote, bytes(16)))
    tunnel.deliver(0, _reply(initiation, os.urandom(32), bytes(16)))
    assert tunnel.one.counters[c.NOT_AUTHENTIC] == 2
    first = os.urandom(16)
    tunnel.deliver(0, _reply(initiation, remote, first))
    tunnel.deliver(0, _reply(initiation, remote, os.urandom(16)))
    assert tunnel.one.counters[c.COOKIE_REPLIES_RECEIVED] == 1
    following = _next_initiation(tunnel, 5400)
    assert following[132:] == hashlib.blake2s(following[:132], key=first, digest_size=16).digest()
