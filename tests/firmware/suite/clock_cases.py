"""SNTP: which answers are believed, and what they tell (RFC 5905)."""

from lopower_device import sntp

ORIGIN = bytes(range(8))


def _message(leap=0, version=4, mode=4, stratum=4, origin=ORIGIN, seconds=1_790_000_000, fraction=0x80000000):
    """An answer of a server at a time of Unix."""
    return (
        bytes((leap << 6 | version << 3 | mode, stratum))
        + bytes(22)
        + origin
        + bytes(8)
        + (seconds + 2_208_988_800 & 0xFFFFFFFF).to_bytes(4, "big")
        + fraction.to_bytes(4, "big")
    )


def test_what_an_answer_tells():
    """Milliseconds, in this era of NTP and after 2036; announced leap seconds and further bytes change nothing."""
    assert sntp.answer(_message(), ORIGIN) == 1_790_000_000_500
    assert sntp.answer(_message(seconds=2_085_978_495, fraction=0), ORIGIN) == 2_085_978_495_000  # the last of the era
    assert sntp.answer(_message(seconds=2_085_978_496), ORIGIN) == 2_085_978_496_500
    assert sntp.answer(_message(seconds=2_200_000_000), ORIGIN) == 2_200_000_000_500
    for leap in (1, 2):
        assert sntp.answer(_message(leap=leap), ORIGIN) == 1_790_000_000_500
    assert sntp.answer(_message() + bytes(20), ORIGIN) == 1_790_000_000_500


def test_answers_that_are_not_believed():
    """An unsynchronised gateway, a kiss of death, another's answer, a question, no time, a part of one."""
    assert sntp.answer(_message(leap=3), ORIGIN) is None
    for stratum in (0, 16, 17, 255):
        assert sntp.answer(_message(stratum=stratum), ORIGIN) is None
    for mode in (0, 1, 2, 3, 5, 6, 7):
        assert sntp.answer(_message(mode=mode), ORIGIN) is None
    assert sntp.answer(_message(origin=bytes(8)), ORIGIN) is None
    assert sntp.answer(_message()[:40] + bytes(8), ORIGIN) is None
    for length in range(48):
        assert sntp.answer(_message()[:length], ORIGIN) is None
