"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s against the public vector of the cacophony collection, and its prologue."""

from __future__ import annotations

import pytest

from lopower.wireguard import noise
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.noise import NoiseError, SymmetricState, X25519Key, diffie_hellman
from tests.support.wireguard_link import Pair

PROLOGUE = bytes.fromhex("4a6f686e2047616c74")
PRESHARED_KEY = bytes.fromhex("54686973206973206d7920417573747269616e20706572737065637469766521")
INITIATOR_STATIC = bytes.fromhex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1")
INITIATOR_EPHEMERAL = bytes.fromhex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a")
RESPONDER_PUBLIC = bytes.fromhex("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62")
RESPONDER_STATIC = bytes.fromhex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893")
RESPONDER_EPHEMERAL = bytes.fromhex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b")
HANDSHAKE_HASH = bytes.fromhex("f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5")
MESSAGES = [
    (
        "4c756477696720766f6e204d69736573",
        (
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb5"
            "6253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985"
            "464cf17e51ee93109008399a21f7e13f"
        ),
    ),
    (
        "4d757272617920526f746862617264",
        (
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab03222"
            "17755c0632f365717edbf34d33e87a"
        ),
    ),
    (
        "462e20412e20486179656b",
        "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7",
    ),
    (
        "4361726c204d656e676572",
        "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef",
    ),
    (
        "4a65616e2d426170746973746520536179",
        "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
    ),
    (
        "457567656e2042f6686d20766f6e2042617765726b",
        "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
    ),
]


def initiate(prologue: bytes = PROLOGUE) -> tuple[bytes, noise.SentInitiation]:
    return noise.write_initiation(
        prologue=prologue,
        static=X25519Key.from_private(INITIATOR_STATIC),
        ephemeral=X25519Key.from_private(INITIATOR_EPHEMERAL),
        remote_static=RESPONDER_PUBLIC,
        static_static=diffie_hellman(INITIATOR_STATIC, RESPONDER_PUBLIC),
        payload=bytes.fromhex(MESSAGES[0][0]),
    )


def read(message: bytes, prologue: bytes = PROLOGUE) -> noise.ReceivedInitiation:
    return noise.read_initiation(
        message,
        initial=SymmetricState.initialize(prologue, RESPONDER_PUBLIC),
        static=X25519Key.from_private(RESPONDER_STATIC),
        static_static=lambda remote: diffie_hellman(RESPONDER_STATIC, remote),
    )


def respond(received: noise.ReceivedInitiation, preshared_key: bytes = PRESHARED_KEY) -> bytes:
    ephemeral = X25519Key.from_private(RESPONDER_EPHEMERAL)
    return received.write_response(ephemeral, preshared_key, bytes.fromhex(MESSAGES[1][0]))[0]


def test_the_public_vector_in_both_roles_and_its_transport_messages() -> None:
    initiation, sent = initiate()
    assert initiation.hex() == MESSAGES[0][1]
    received = read(initiation)
    assert received.payload.hex() == MESSAGES[0][0]
    assert received.remote_static == X25519Key.from_private(INITIATOR_STATIC).public
    response, responder_keys = received.write_response(
        X25519Key.from_private(RESPONDER_EPHEMERAL), PRESHARED_KEY, bytes.fromhex(MESSAGES[1][0])
    )
    assert response.hex() == MESSAGES[1][1]
    payload, initiator_keys = sent.read_response(response, PRESHARED_KEY)
    assert payload.hex() == MESSAGES[1][0]
    assert initiator_keys.handshake_hash == responder_keys.handshake_hash == HANDSHAKE_HASH
    assert (initiator_keys.send, initiator_keys.receive) == (responder_keys.receive, responder_keys.send)

    peer = Pair().to_server
    initiator = Keypair(peer, initiator_keys, local_index=1, remote_index=2, is_initiator=True, now=0.0)
    responder = Keypair(peer, responder_keys, local_index=2, remote_index=1, is_initiator=False, now=0.0)
    for i, (plaintext, ciphertext) in enumerate(MESSAGES[2:]):
        sender, receiver = (initiator, responder) if i % 2 == 0 else (responder, initiator)
        nonce = bytes(4) + (i // 2).to_bytes(8, "little")
        sealed, opened = bytearray(len(ciphertext) // 2), bytearray(len(plaintext) // 2)
        sender.encrypt_into(nonce, bytes.fromhex(plaintext), None, sealed)
        assert sealed.hex() == ciphertext
        receiver.decrypt_into(nonce, sealed, None, opened)
        assert opened.hex() == plaintext


def test_another_prologue_does_not_open() -> None:
    with pytest.raises(NoiseError):
        read(initiate()[0], b"another prologue")


def test_a_failed_message_leaves_the_state_usable() -> None:
    initiation, sent = initiate()
    for position in (0, 40, 90):
        forged = bytearray(initiation)
        forged[position] ^= 1
        with pytest.raises(NoiseError):
            read(bytes(forged))
    response = respond(read(initiation))
    for position in (0, 31, 40, len(response) - 1):
        forged = bytearray(response)
        forged[position] ^= 1
        with pytest.raises(NoiseError):
            sent.read_response(bytes(forged), PRESHARED_KEY)
    assert sent.read_response(response, PRESHARED_KEY)[0].hex() == MESSAGES[1][0]


def test_a_different_preshared_key_does_not_open() -> None:
    initiation, sent = initiate()
    with pytest.raises(NoiseError):
        sent.read_response(respond(read(initiation), bytes(32)), PRESHARED_KEY)


@pytest.mark.parametrize("low_order", [bytes(32), b"\1" + bytes(31)])
def test_an_all_zero_diffie_hellman_result_is_refused(low_order: bytes) -> None:
    with pytest.raises(NoiseError, match="all zero"):
        diffie_hellman(INITIATOR_STATIC, low_order)
    initiation, sent = initiate()
    with pytest.raises(NoiseError):
        read(low_order + initiation[32:])
    with pytest.raises(NoiseError):
        sent.read_response(low_order + respond(read(initiation))[32:], PRESHARED_KEY)


def test_no_key_material_in_any_repr() -> None:
    _, sent = initiate()
    key = X25519Key.from_private(INITIATOR_STATIC)
    for value in (key, sent, sent.symmetric, (sent, key)):
        text = repr(value)
        assert INITIATOR_STATIC.hex() not in text
        assert repr(INITIATOR_STATIC) not in text
        assert repr(sent.symmetric.split()[0]) not in text
