"""Constants of the whitepaper's section 6.1 and of the protocol's limits. Times are in seconds."""

from __future__ import annotations

from typing import Final

REKEY_AFTER_MESSAGES: Final = 2**60
REJECT_AFTER_MESSAGES: Final = 2**64 - 2**13 - 1
REKEY_AFTER_TIME: Final = 120.0
REJECT_AFTER_TIME: Final = 180.0
REKEY_ATTEMPT_TIME: Final = 90.0
REKEY_TIMEOUT: Final = 5.0
REKEY_TIMEOUT_JITTER: Final = 0.333
KEEPALIVE_TIMEOUT: Final = 10.0

REKEY_AFTER_TIME_RECEIVING: Final = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
"""An initiator that only receives rekeys at this age, so that a reply still finds a session (whitepaper 6.2)."""

NEW_HANDSHAKE_TIMEOUT: Final = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
"""Data that was not answered for this long starts a handshake (whitepaper 6.5)."""

ZERO_KEYS_AFTER_TIME: Final = 3 * REJECT_AFTER_TIME
"""Without a new session for this long, all key material of a peer is dropped (whitepaper 6.3)."""

COOKIE_LIFETIME: Final = 120.0
UNDER_LOAD_AFTER_TIME: Final = 1.0
INITIATION_INTERVAL: Final = 0.020
"""Two accepted initiations of one peer are at least this far apart."""

MAX_STAGED_PACKETS: Final = 128
"""Packets waiting for a session, per peer: whoever makes us send to a silent device could fill memory."""

MAX_RECENT: Final = 64
"""Remembered strangers: anybody on the network can add to these lists."""
