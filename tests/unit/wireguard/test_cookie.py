"""mac1, mac2 and cookies."""

from __future__ import annotations

import random

import pytest

from lopower.wire.wireguard import CookieReply
from lopower.wireguard.cookie import CookieChecker, CookieGenerator

PUBLIC = b"p" * 32
MESSAGE = bytes((1, 0, 0, 0, 0x44, 0x33, 0x22, 0x11)) + bytes(range(108))
SOURCE = bytes((192, 0, 2, 2)) + (40000).to_bytes(2, "big")


def sides() -> tuple[CookieChecker, CookieGenerator]:
    return CookieChecker(PUBLIC, random.Random(1).randbytes), CookieGenerator(PUBLIC)


def test_mac1_needs_our_public_key_and_every_bit() -> None:
    checker, generator = sides()
    message = generator.add_macs(MESSAGE, 0.0)
    assert len(message) == 148
    assert message.endswith(bytes(16))
    assert checker.has_valid_mac1(message)
    assert not checker.has_valid_mac1(CookieGenerator(b"q" * 32).add_macs(MESSAGE, 0.0))
    for position in (0, 50, 115, 116, 131):
        forged = bytearray(message)
        forged[position] ^= 1
        assert not checker.has_valid_mac1(bytes(forged))


def test_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare_digest(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("lopower.wireguard.cookie.hmac.compare_digest", compare_digest)
    checker, generator = sides()
    checker.has_valid_mac1(generator.add_macs(MESSAGE, 0.0))
    checker.has_valid_mac2(generator.add_macs(MESSAGE, 0.0), SOURCE, 0.0)
    assert len(compared) == 2


def test_a_cookie_makes_mac2_valid_for_its_source_alone() -> None:
    checker, generator = sides()
    message = generator.add_macs(MESSAGE, 0.0)
    assert not checker.has_valid_mac2(message, SOURCE, 0.0)
    reply = CookieReply.parse(checker.reply_to(message, SOURCE, 0.0))
    assert reply.receiver_index == 0x11223344
    assert generator.consume_reply(reply, 0.0)
    message = generator.add_macs(MESSAGE, 1.0)
    assert checker.has_valid_mac2(message, SOURCE, 1.0)
    assert not checker.has_valid_mac2(message, SOURCE[:-1] + b"\0", 1.0)
    assert not checker.has_valid_mac2(message, bytes((192, 0, 2, 3)) + SOURCE[4:], 1.0)


def test_the_secret_is_younger_than_120_seconds() -> None:
    checker, generator = sides()
    generator.consume_reply(CookieReply.parse(checker.reply_to(generator.add_macs(MESSAGE, 0.0), SOURCE, 0.0)), 0.0)
    assert checker.has_valid_mac2(generator.add_macs(MESSAGE, 119.9), SOURCE, 119.9)
    message = generator.add_macs(MESSAGE, 119.9)
    assert not checker.has_valid_mac2(message, SOURCE, 120.0)


def test_a_cookie_is_used_for_120_seconds_at_most() -> None:
    checker, generator = sides()
    generator.consume_reply(CookieReply.parse(checker.reply_to(generator.add_macs(MESSAGE, 0.0), SOURCE, 0.0)), 0.0)
    assert not generator.add_macs(MESSAGE, 119.9).endswith(bytes(16))
    assert generator.add_macs(MESSAGE, 120.0).endswith(bytes(16))


def test_a_reply_counts_for_the_last_mac1_and_once() -> None:
    checker, generator = sides()
    first = generator.add_macs(MESSAGE, 0.0)
    early = CookieReply.parse(checker.reply_to(first, SOURCE, 0.0))
    last = generator.add_macs(MESSAGE[:-1] + b"!", 0.0)
    assert not generator.consume_reply(early, 0.0)
    reply = CookieReply.parse(checker.reply_to(last, SOURCE, 0.0))
    assert generator.consume_reply(reply, 0.0)
    assert not generator.consume_reply(reply, 0.0)


def test_a_forged_reply_is_refused_and_the_true_one_still_counts() -> None:
    checker, generator = sides()
    reply = CookieReply.parse(checker.reply_to(generator.add_macs(MESSAGE, 0.0), SOURCE, 0.0))
    assert not generator.consume_reply(CookieReply(reply.receiver_index, reply.nonce, bytes(32)), 0.0)
    assert not generator.consume_reply(CookieReply(reply.receiver_index, bytes(24), reply.encrypted_cookie), 0.0)
    assert generator.consume_reply(reply, 0.0)


def test_no_reply_counts_before_anything_was_sent() -> None:
    checker, generator = sides()
    other = CookieGenerator(PUBLIC)
    assert not generator.consume_reply(
        CookieReply.parse(checker.reply_to(other.add_macs(MESSAGE, 0.0), SOURCE, 0.0)), 0.0
    )
