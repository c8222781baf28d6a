"""Published vectors for the cryptography, on whichever kernels were imported."""

from binascii import unhexlify

from lopower_device import crypto, noise
from lopower_device import kernels as k
from lopower_device.blake2s import blake2s
from lopower_device.x25519 import BASE_POINT, STEPS, run, x25519


def _packet(plaintext, counter):
    packet = bytearray(16 + (len(plaintext) + 63) // 64 * 64 + 16)
    packet[8:16] = counter
    packet[16 : 16 + len(plaintext)] = plaintext
    return packet


def test_blake2s_abc():
    """RFC 7693 appendix B."""
    assert blake2s(b"abc") == unhexlify("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982")


def test_blake2s_self_test():
    """RFC 7693 appendix E: a hash over the hashes of many lengths, with and without key."""

    def sequence(length, seed):
        a = 0xDEAD4BAD * seed & 0xFFFFFFFF
        b = 1
        out = bytearray(length)
        for i in range(length):
            a, b = b, (a + b) & 0xFFFFFFFF
            out[i] = b >> 24
        return bytes(out)

    digests = b""
    for size in (16, 20, 28, 32):
        for length in (0, 3, 64, 65, 255, 1024):
            data = sequence(length, length)
            digests += blake2s(data, b"", size)
            digests += blake2s(data, sequence(size, size), size)
    assert blake2s(digests) == unhexlify("6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe")


def test_chacha20_block():
    """RFC 8439 section 2.3.2."""
    x = crypto.words(92)
    whole = b"expand 32-byte k" + bytes(range(32)) + unhexlify("01000000000000090000004a00000000")
    for i in range(16):
        x[16 + i] = int.from_bytes(whole[4 * i : 4 * i + 4], "little")
    block = bytearray(64)
    k.chacha20_xor(x, 0, x, block, 0, 1, -1)
    assert block == unhexlify(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_poly1305():
    """RFC 8439's message of section 2.8.2 with 16 bytes of associated data instead of 12, and the edges of the field.

    Those are sums just below, at and above the prime, and limbs of all ones; the tags are of OpenSSL and of integers.
    """
    data = unhexlify(
        "50515253c0c1c2c3c4c5c6c700000000"
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
    )
    key = unhexlify("7bac2b252db447af09b67a55a4e955840ae1d6731075d9eb2a9375783ed553ff")
    assert _tag(key, data, 114, 16) == unhexlify("0693ba6dffd900a89e6819e160075ea2")
    for below in range(-3, 8):
        # r = 1: the two blocks, that of the lengths and 3 * 2^128 add up to 2^130 - below
        total = (1 << 128) - below - (32 << 64)
        one = (1 << 128) - 1 - (1 << 70)
        blocks = one.to_bytes(16, "little") + (total - one).to_bytes(16, "little")
        expected = ((1 << 130) - below) % ((1 << 130) - 5) & ((1 << 128) - 1)
        assert _tag(b"\1" + bytes(31), blocks, 32, 0) == expected.to_bytes(16, "little"), below
    assert _tag(b"\xff" * 32, b"\xff" * 1424, 1424, 0) == unhexlify("3ca81b87101014444e28f3e985f11a8e")


def _tag(key, message, length, associated):
    """Poly1305 of an AEAD, by itself; what it writes is what it then accepts."""
    x, packet = crypto.words(92), bytearray(16 + (len(message) + 15 & ~15) + 16)
    for i in range(8):
        x[32 + i] = int.from_bytes(key[4 * i : 4 * i + 4], "little")
    packet[16 : 16 + len(message)] = message
    assert not k.poly1305(x, 0, packet, length, associated, 1)
    tag = bytes(packet[16 + len(message) : 32 + len(message)])
    assert not k.poly1305(x, 0, packet, length, associated, 0)
    packet[16 + len(message) : 32 + len(message)] = tag
    packet[20] ^= 1
    assert k.poly1305(x, 0, packet, length, associated, 0)
    return tag


def test_aead():
    """RFC 8439's nonces are none of WireGuard's, so these digests are of what libsodium makes of such messages."""
    cipher = crypto.Cipher(bytes(range(32)))
    for length in (0, 16, 32, 63, 64, 112, 128, 1420, 1424):
        plaintext = bytes([i * 7 & 255 for i in range(length)])
        packet = _packet(plaintext, b"\x01\x02\x03\x04\x05\x06\x07\x08")
        cipher.seal(packet, length)
        sealed = bytes(packet[16 : 32 + length])
        assert blake2s(sealed)[:8] == unhexlify(AEAD_DIGESTS[length]), length
        for bad in (0, length, length + 15):
            changed = bytearray(packet)
            changed[16 + bad] ^= 1
            assert not cipher.open(changed, length)
        assert cipher.open(packet, length)
        assert bytes(packet[16 : 16 + length]) == plaintext


AEAD_DIGESTS = {
    0: "d6c52173868dd9da",
    16: "ee1d7f38379442cc",
    32: "25a23cdc53812260",
    63: "e04ca203b10c113e",
    64: "7d37fd60b34dbfcb",
    112: "2b00fb90c7de73c9",
    128: "ac539eff03844829",
    1420: "5bbe2bbef0c70280",
    1424: "3c096eb7d2ec1d1a",
}


def test_handshake_aead():
    """Any length, associated data, a tag of its own."""
    key = bytes(range(32, 64))
    for length in (0, 1, 12, 15, 16, 32, 63, 64, 65):
        sealed = noise.encrypt(key, bytes(range(length)), bytes(range(32)))
        assert len(sealed) == length + 16
        assert noise.decrypt(key, sealed, bytes(range(32))) == bytes(range(length))
        assert noise.decrypt(key, sealed, bytes(range(1, 33))) is None
        assert noise.decrypt(key, sealed[:-1] + bytes((sealed[-1] ^ 1,)), bytes(range(32))) is None


def test_x25519():
    """RFC 7748 section 5.2, and its first iteration."""
    cases = (
        ("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
         "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
         "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"),
        ("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
         "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
         "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"),
        ("09" + "00" * 31, "09" + "00" * 31, "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"),
    )  # fmt: skip
    for scalar, point, result in cases:
        assert run(x25519(unhexlify(scalar), unhexlify(point))) == unhexlify(result)


def test_both_sides_agree():
    """RFC 7748 section 6: DH(a, B) is DH(b, A)."""
    one, other = blake2s(b"one"), blake2s(b"other")
    shared = run(x25519(one, run(x25519(other, BASE_POINT))))
    assert shared == run(x25519(other, run(x25519(one, BASE_POINT))))


def test_points_of_low_order():
    """Their products are all zero, which a handshake must refuse."""
    for point in ("00" * 32, "01" + "00" * 31, "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"):
        assert run(x25519(bytes(range(32)), unhexlify(point))) is None


def test_points_beyond_the_prime():
    """RFC 7748 section 5: not reduced ones are accepted, and bit 255 is ignored."""
    scalar = bytes(range(32))
    ten = run(x25519(scalar, b"\x0a" + bytes(31)))
    beyond = ((1 << 255) - 19 + 10).to_bytes(32, "little")
    assert run(x25519(scalar, beyond)) == ten
    assert run(x25519(scalar, b"\x0a" + bytes(30) + b"\x80")) == ten


def test_x25519_pauses():
    """A multiplication is done in slices: that is what keeps a program running over a rekey."""
    pauses = sum(1 for _ in x25519(bytes(range(32)), BASE_POINT))
    assert pauses == 255 // STEPS + 2  # the last one is the inversion


def test_replay_window():
    """RFC 6479, window 1984: each counter once, none from before the window, over the border of the low word too."""
    for base in (0, (1 << 32) - 5000, (1 << 40) - 3):
        window = crypto.words(68)

        def accept(counter, window=window):
            packet = bytearray(16)
            packet[8:16] = counter.to_bytes(8, "little")
            return k.replay_accept(window, packet)

        assert accept(base)
        assert not accept(base)
        for ahead in (1, 31, 32, 33, 1984, 1985, 9000, 20000):
            assert accept(base + ahead), ahead
            assert not accept(base + ahead)
        top = base + 20000
        assert accept(top - 1984)
        assert not accept(top - 1984)
        assert not accept(top - 1985)
        assert accept(top - 1)
        assert accept(top + (1 << 33))
        assert not accept(top)


def test_sequence_arithmetic():
    """Modulo 2^32, held within 28 bits, so that no value needs more than a small integer of a board."""
    words = crypto.words(2)
    packet = bytearray(8)
    for base, value, difference in (
        (0, 0, 0), (5, 3, -2), (0xFFFFFFFF, 1, 2), (1, 0xFFFFFFFF, -2), (0xFFFF0000, 0x00010000, 0x20000),
        (0, 0x7FFFFFFF, 0xFFFFFFF), (0, 0x80000000, -0x10000000), (0x12345678, 0x12345678 - 70000, -70000),
    ):  # fmt: skip
        words[1] = base
        packet[4:8] = value.to_bytes(4, "big")
        assert k.sequence_difference(packet, 4, words, 1) == difference
        k.put_word(packet, 0, words, 1, 1)
        assert int.from_bytes(packet[:4], "big") == (base + 1) & 0xFFFFFFFF
    k.add_word(words, 1, -0x12345679)
    assert words[1] == 0xFFFFFFFF


def test_checksum():
    """RFC 1071: sum, odd lengths, carries of a long run."""
    data = bytearray(bytes(range(256)) * 6)
    for offset, length in ((0, 20), (2, 21), (4, 1), (0, 1500), (0, 0)):
        part = bytes(data[offset : offset + length]) + bytes(length & 1)
        expected = sum(part[i] | part[i + 1] << 8 for i in range(0, len(part), 2))
        while expected > 0xFFFF:
            expected = (expected & 0xFFFF) + (expected >> 16)
        assert k.checksum_add(data, offset, length, 0) == expected


def test_copy_and_differ():
    """All alignments."""
    source = bytearray(range(64))
    for to in range(5):
        for offset in range(5):
            for length in (0, 1, 3, 4, 5, 17):
                target = bytearray(40)
                k.copy(target, to, source, offset, length)
                assert target == bytes(to) + source[offset : offset + length] + bytes(40 - to - length)
                assert not k.differ(target, to, source, offset, length)
