"""Keys in text, and the server's key file."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from lopower.devices.errors import InvalidKey
from lopower.devices.keys import (
    KeyFileError,
    format_key,
    generate_preshared_key,
    generate_private_key,
    load_or_create_server_key,
    parse_key,
    public_key_of,
)

# RFC 7748 section 6.1
BOB_PRIVATE = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")


def test_public_key_of_rfc_7748() -> None:
    assert public_key_of(BOB_PRIVATE) == BOB_PUBLIC


def test_text_form_round_trips() -> None:
    key = bytes(range(32))
    assert parse_key(format_key(key)) == key
    assert parse_key(f"  {format_key(key)}\n") == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kitchen",
        base64.b64encode(bytes(range(31))).decode(),
        base64.b64encode(bytes(range(33))).decode(),
        base64.b64encode(bytes(range(32))).decode()[:-1],
        base64.b64encode(bytes(range(32))).decode()[:-2] + "9=",  # the unused bits of the last character are not zero
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "\u00e9" * 44,
    ],
)
def test_malformed_keys_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(InvalidKey, match="44 characters of base64") as caught:
        parse_key(text)
    assert not text or text not in str(caught.value)


def test_the_zero_key_is_refused() -> None:
    with pytest.raises(InvalidKey, match="all zeros"):
        parse_key(format_key(bytes(32)))


def test_generated_private_keys_are_clamped_and_differ() -> None:
    one, other = generate_private_key(), generate_private_key()
    assert one != other
    assert one[0] & 7 == 0
    assert one[31] & 0xC0 == 0x40
    assert generate_preshared_key() != generate_preshared_key()


def test_the_server_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    umask = os.umask(0)
    try:
        key = load_or_create_server_key(path)
    finally:
        os.umask(umask)
    assert load_or_create_server_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["server.key"]


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    load_or_create_server_key(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match=r"read by others \(mode 0640\).*chmod 600"):
        load_or_create_server_key(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"not a key\n", b"A" * 43 + b"=\n" + b"x" * 300])
def test_a_damaged_key_file_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "server.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="does not hold a key"):
        load_or_create_server_key(path)
    assert path.read_bytes() == content


def test_a_directory_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be written"):
        load_or_create_server_key(tmp_path / "missing" / "server.key")
