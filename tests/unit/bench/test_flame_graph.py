"""The flame graph: what py-spy's stacks are charged to."""

from __future__ import annotations

import xml.dom.minidom

import pytest

from tests.bench.flame import picture, read, shares, table

_BELOW = "<module> (lopower);run (asyncio/runners.py:190)"
_TURN = f"{_BELOW};turn (lopower/daemon/datapath.py:90)"
_RECEIVE = f"{_TURN};receive (lopower/wireguard/interface.py:1)"
_RAW = f"""\
{_RECEIVE};open (lopower/wireguard/opening.py:3);poly1305_blocks (cryptography/hazmat/bindings/_rust.abi3.so) 50
{_RECEIVE};open (lopower/wireguard/opening.py:9) 10
{_TURN};_write (lopower/bridge/tcp.py:9);sock_sendmsg (_socket.cpython-311.so);__sendmsg (libc.so.6) 30
{_TURN};find (/x/host/lopower/netstack/rows.py:9);DOUBLE_add (numpy/_core/_multiarray_umath.so) 6
{_BELOW};select (selectors.py:468);epoll_wait (libc.so.6) 4
thread_run (libpython3.11.so.1.0);_worker (concurrent/futures/thread.py:81);_queue_SimpleQueue_get (_queue.so) 900
"""


def test_calls_are_charged_to_the_function_of_ours_that_makes_them() -> None:
    stacks = read(_RAW)
    assert sum(stacks.values()) == 100
    outer = "daemon: turn (datapath)"
    assert stacks[outer, "wireguard: receive (interface)", "wireguard: open (opening)", "cipher"] == 50
    assert shares(stacks) == {
        ("wireguard", "cipher"): 0.5,
        ("wireguard", "interpreter"): 0.1,
        ("bridge", "kernel"): 0.3,
        ("netstack", "numpy"): 0.06,
        ("asyncio", "kernel"): 0.04,
    }
    lines = table(shares(stacks), 10.0).splitlines()
    assert "| wireguard | 5.00 |  |  | 1.00 | 6.00 |" in lines
    assert lines[-1] == "| all | 5.00 | 3.40 | 0.60 | 1.00 | 10.00 |"


@pytest.mark.parametrize("raw", ["", _RAW])
def test_the_picture_is_an_image(raw: str) -> None:
    drawn = picture({"up & down": read(raw)})
    xml.dom.minidom.parseString(drawn)
    assert ("open (opening)" in drawn) == bool(raw)
