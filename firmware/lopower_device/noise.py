"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s with WireGuard's messages (whitepaper section 5.4), initiator and responder.

Each step is a generator that yields within its X25519 multiplications, so that a handshake never holds the program for
long. Nothing is changed before a message has proved authentic: what a step led to is its return value.

    <- s
    ...
    -> e, es, s, ss        initiation
    <- e, ee, se, psk      response
"""

from .crypto import BASE_POINT, Cipher, blake2s, hkdf, run, x25519

INITIATION_SIZE = 148
RESPONSE_SIZE = 92
COOKIE_REPLY_SIZE = 64
_CHAINING_KEY = blake2s(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
_HASH = blake2s(_CHAINING_KEY + b"WireGuard v1 zx2c4 Jason@zx2c4.com")


class Static:
    """Our key pair, the proxy's public key, the preshared key, and what follows from them alone."""

    def __init__(self, private_key, remote_key, preshared_key=None):
        self.private_key = private_key
        self.remote_key = remote_key
        self.preshared_key = preshared_key or bytes(32)
        self.mac1_key = blake2s(b"mac1----" + remote_key)
        self.cookie_key = blake2s(b"cookie--" + remote_key)
        self.public_key = None
        self.static_static = None
        self.own_mac1_key = None

    def prepare(self):
        """A generator: the public key, and DH(s, rs). Returns False if the proxy's key is of low order."""
        public_key = yield from x25519(self.private_key, BASE_POINT)
        self.restore(public_key, (yield from x25519(self.private_key, self.remote_key)))
        return self.static_static is not None

    def restore(self, public_key, static_static):
        """What `prepare` has computed."""
        self.public_key = public_key
        self.own_mac1_key = blake2s(b"mac1----" + public_key)
        self.static_static = static_static


def create_initiation(static, sender, ephemeral, timestamp):
    """Generator. Returns (the message up to mac1, state for `consume_response`). `sender`: our index, 4 bytes."""
    public = yield from x25519(ephemeral, BASE_POINT)
    h = blake2s(blake2s(_HASH + static.remote_key) + public)
    ck = hkdf(_CHAINING_KEY, public, 1)[0]
    shared = yield from x25519(ephemeral, static.remote_key)
    if shared is None:
        return None
    ck, key = hkdf(ck, shared, 2)
    encrypted_static = Cipher(key).seal_message(static.public_key, h)
    h = blake2s(h + encrypted_static)
    yield
    ck, key = hkdf(ck, static.static_static, 2)
    encrypted_timestamp = Cipher(key).seal_message(timestamp, h)
    h = blake2s(h + encrypted_timestamp)
    message = b"\x01\x00\x00\x00" + sender + public + encrypted_static + encrypted_timestamp
    return message, (ck, h, ephemeral)


def consume_response(static, state, message):
    """Generator. Returns (sending key, receiving key), or None if the message is not authentic."""
    ck, h, ephemeral = state
    public = message[12:44]
    h = blake2s(h + public)
    ck = hkdf(ck, public, 1)[0]
    for secret in (ephemeral, static.private_key):
        shared = yield from x25519(secret, public)
        if shared is None:
            return None
        ck = hkdf(ck, shared, 1)[0]
    ck, t, key = hkdf(ck, static.preshared_key, 3)
    yield
    if Cipher(key).open_message(message[44:60], blake2s(h + t)) is None:
        return None
    return tuple(hkdf(ck, b"", 2))


def consume_initiation(static, message):
    """Generator. Returns (timestamp, state for `create_response`), or None unless it is the proxy's."""
    public = message[8:40]
    h = blake2s(blake2s(_HASH + static.public_key) + public)
    ck = hkdf(_CHAINING_KEY, public, 1)[0]
    shared = yield from x25519(static.private_key, public)
    if shared is None:
        return None
    ck, key = hkdf(ck, shared, 2)
    if Cipher(key).open_message(message[40:88], h) != static.remote_key:
        return None
    h = blake2s(h + message[40:88])
    yield
    ck, key = hkdf(ck, static.static_static, 2)
    timestamp = Cipher(key).open_message(message[88:116], h)
    if timestamp is None:
        return None
    return timestamp, (ck, blake2s(h + message[88:116]), public)


def create_response(static, state, sender, receiver, ephemeral):
    """Generator. Returns (the message up to mac1, sending key, receiving key), or None."""
    ck, h, remote = state
    public = yield from x25519(ephemeral, BASE_POINT)
    h = blake2s(h + public)
    ck = hkdf(ck, public, 1)[0]
    for point in (remote, static.remote_key):
        shared = yield from x25519(ephemeral, point)
        if shared is None:
            return None
        ck = hkdf(ck, shared, 1)[0]
    ck, t, key = hkdf(ck, static.preshared_key, 3)
    h = blake2s(h + t)
    message = b"\x02\x00\x00\x00" + sender + receiver + public + Cipher(key).seal_message(b"", h)
    yield
    receiving, sending = hkdf(ck, b"", 2)
    return message, sending, receiving


def public_key(private_key):
    """The public half, in one go."""
    return run(x25519(private_key, BASE_POINT))
