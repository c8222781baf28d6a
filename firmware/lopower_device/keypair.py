"""Keys: those of our two ends, and those of one session, with what prevents that a counter is used or accepted twice."""

from . import kernels as k
from . import ticks
from .crypto import Cipher, words

REJECT_AFTER_TIME = 180_000
LOCAL = 3


class Static:
    """Our private key, the proxy's public key, the preshared key; and what a handshake computes of them once."""

    public_key = static_static = None
    """Ours, and DH(s, rs)."""

    def __init__(self, private_key, remote_key, preshared_key=None):
        self.private_key = private_key
        self.remote_key = remote_key
        self.preshared_key = preshared_key or bytes(32)


class Keypair:
    """`words`: the next counter in two halves, the proxy's index, ours."""

    def __init__(self, sending, receiving, local_index, remote_index, is_initiator, now):
        self.sending = Cipher(sending)
        self.receiving = Cipher(receiving)
        self.words = words(4)
        self.words[2] = int.from_bytes(remote_index, "little")
        self.words[LOCAL] = int.from_bytes(local_index, "little")
        self.window = words(68)
        self.is_initiator = is_initiator
        self.created = now

    def age(self, now):
        """Milliseconds since the handshake."""
        return ticks.diff(now, self.created)

    def is_alive(self, now):
        """Whether it may still be used, in either direction."""
        return self.age(now) < REJECT_AFTER_TIME

    def seal(self, packet, length):
        """Make a data message of the `length` bytes at 16; true if a rekey is due (whitepaper: after 2^60 messages)."""
        exhausted = k.data_header(packet, self.words)
        self.sending.seal(packet, length)
        return exhausted

    def open(self, packet, length):
        """A data message of `length` bytes in all: 1 if it is fresh and decrypted, 0 if replayed, -1 if not authentic."""
        if not self.receiving.open(packet, length - 32):
            return -1
        return k.replay_accept(self.window, packet)
