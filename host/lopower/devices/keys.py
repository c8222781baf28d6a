"""WireGuard's keys: their text form, new ones, and the file that the server's private key lives in."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from nacl.bindings import crypto_scalarmult_base

from lopower.devices.errors import InvalidKey, RegistryError

KEY_LENGTH: Final = 32
_TEXT_LENGTH: Final = 44
_HINT: Final = "a key is 44 characters of base64 (32 bytes), as `wg genkey` and `wg pubkey` print them"


class KeyFileError(RegistryError):
    """The server's key file cannot be read or written; a key in it was not touched."""


def parse_key(text: str) -> bytes:
    """A key from its base64 form; 32 bytes. The text itself never appears in an error, since it may be a secret.

    Raises:
        InvalidKey: not 32 bytes of base64, or zero, which no key is.
    """
    text = text.strip()
    try:
        key = base64.b64decode(text, validate=True) if len(text) == _TEXT_LENGTH else b""
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_LENGTH or format_key(key) != text:
        raise InvalidKey(f"this is not a key; {_HINT}")
    if not any(key):
        raise InvalidKey(f"the key of all zeros is no key; {_HINT}")
    return key


def format_key(key: bytes) -> str:
    """A key in base64."""
    return base64.b64encode(key).decode("ascii")


def generate_private_key() -> bytes:
    """A new private key, clamped (RFC 7748 section 5), from the operating system's random source."""
    key = bytearray(secrets.token_bytes(KEY_LENGTH))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return bytes(key)


def generate_preshared_key() -> bytes:
    """A new preshared key: 32 random bytes."""
    return secrets.token_bytes(KEY_LENGTH)


def public_key_of(private_key: bytes) -> bytes:
    """The public key to a private one."""
    return crypto_scalarmult_base(private_key)


def load_or_create_server_key(path: Path) -> bytes:
    """The server's private key from its file; a new one, in a new file, if there is none.

    The file is 0600 and appears whole or not at all, also after a power cut. One that others may read is refused: its
    key must be taken as known.

    Raises:
        KeyFileError: the file is damaged, readable by others, or cannot be read or written.
    """
    try:
        return _load(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise KeyFileError(f"the server's key cannot be read from {path}: {error.strerror}") from None
    try:
        _create(path, generate_private_key())
        return _load(path)
    except OSError as error:
        raise KeyFileError(f"the server's key cannot be written to {path}: {error.strerror}") from None


def _load(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read(256)
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(
            f"{path} holds the server's private key and can be read by others (mode {stat.S_IMODE(mode):04o}); "
            f"if nobody has read it, `chmod 600 {path}`, else delete it: every device then needs a new configuration"
        )
    try:
        return parse_key(content.decode("ascii"))
    except (InvalidKey, UnicodeDecodeError):
        raise KeyFileError(
            f"{path} does not hold a key; put the server's private key back from a backup, or delete the file: "
            "every device then needs a new configuration"
        ) from None


def _create(path: Path, key: bytes) -> None:
    """Write the file under another name, and give it its own when it is on disk; an existing file wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(descriptor, format_key(key).encode("ascii") + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
