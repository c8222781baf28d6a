"""The primitives, as this package calls them, against published values."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)

from lopower.wireguard.cookie import mac
from lopower.wireguard.noise import X25519Key, diffie_hellman, hkdf, hmac_hash

SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: "
    b"If I could offer you only one tip for the future, sunscreen would be it."
)
AAD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
KEY = bytes(range(0x80, 0xA0))


@pytest.mark.parametrize(
    ("scalar", "u", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_x25519_rfc_7748_section_5_2(scalar: str, u: str, result: str) -> None:
    assert diffie_hellman(bytes.fromhex(scalar), bytes.fromhex(u)).hex() == result


def test_x25519_rfc_7748_section_5_2_iterated() -> None:
    k = u = b"\x09" + bytes(31)
    for i in range(1000):
        k, u = diffie_hellman(k, u), k
        if i == 0:
            assert k.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_x25519_rfc_7748_section_6_1() -> None:
    bob = X25519Key.from_private(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    alice_public = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    shared = diffie_hellman(bob.private, alice_public)
    assert shared.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_chacha20poly1305_rfc_8439_section_2_8_2() -> None:
    nonce = bytes.fromhex("070000004041424344454647")
    expected = (
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )
    assert crypto_aead_chacha20poly1305_ietf_encrypt(SUNSCREEN, AAD, nonce, KEY).hex() == expected
    sealed = bytearray(len(SUNSCREEN) + 16)
    ChaCha20Poly1305(KEY).encrypt_into(nonce, SUNSCREEN, AAD, sealed)
    assert sealed.hex() == expected
    opened = bytearray(len(SUNSCREEN))
    ChaCha20Poly1305(KEY).decrypt_into(nonce, sealed, AAD, opened)
    assert opened == SUNSCREEN
    sealed[-1] ^= 1
    with pytest.raises(InvalidTag):
        ChaCha20Poly1305(KEY).decrypt_into(nonce, sealed, AAD, opened)


def test_xchacha20poly1305_draft_irtf_cfrg_xchacha_appendix_a_3_1() -> None:
    nonce = bytes(range(0x40, 0x58))
    expected = (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
        "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
    )
    assert crypto_aead_xchacha20poly1305_ietf_encrypt(SUNSCREEN, AAD, nonce, KEY).hex() == expected
    assert crypto_aead_xchacha20poly1305_ietf_decrypt(bytes.fromhex(expected), AAD, nonce, KEY) == SUNSCREEN


def test_blake2s_rfc_7693_and_the_reference_implementation() -> None:
    expected = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    assert hashlib.blake2s(b"abc").hexdigest() == expected
    key = bytes(range(32))
    keyed = hashlib.blake2s(b"", key=key).hexdigest()
    assert keyed == "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49"
    assert mac(key, b"") == hashlib.blake2s(b"", key=key, digest_size=16).digest()


def test_hmac_and_hkdf_follow_their_definitions() -> None:
    """RFC 2104 with BLAKE2s, whose block has 64 bytes; HKDF as in Noise section 4.3."""
    key, data = b"k" * 32, b"data"

    def blake2s(message: bytes) -> bytes:
        return hashlib.blake2s(message).digest()

    block = key.ljust(64, b"\0")
    inner = blake2s(bytes(byte ^ 0x36 for byte in block) + data)
    assert hmac_hash(key, data) == blake2s(bytes(byte ^ 0x5C for byte in block) + inner)
    temp = hmac_hash(key, data)
    first = hmac_hash(temp, b"\1")
    second = hmac_hash(temp, first + b"\2")
    assert hkdf(key, data, 3) == [first, second, hmac_hash(temp, second + b"\3")]
