"""dig and dnsperf as clients."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.dns_resolver import LoopbackResolver
from tests.support.dns_shim import Shim
from tests.support.dns_world import make_config, make_server
from tests.support.requirements import require_program

ZONE = """\
www.example.org 300 A 192.0.2.1
www.example.org 300 AAAA 2001:db8::1
signed.example.org 300 A 192.0.2.2
signed.example.org 300 RRSIG A 13 3 300 20300101000000 20200101000000 12345 example.org. c2lnbmF0dXJlc2lnbmF0dXJl
"""


@pytest.fixture
async def upstream() -> AsyncIterator[LoopbackResolver]:
    async with LoopbackResolver() as running:
        running.add(ZONE)
        running.add("\n".join(f"big.example.org 300 A 192.0.2.{n}" for n in range(1, 61)))
        running.add("\n".join(f"huge.example.org 300 TXT {'x' * 200}{n:03}" for n in range(100)))
        yield running


@pytest.fixture
async def shim(tmp_path: Path, upstream: LoopbackResolver) -> AsyncIterator[Shim]:
    server = make_server(make_config(tmp_path, f"nameserver [127.0.0.1]:{upstream.port}\n"))
    async with Shim(server) as running:
        yield running


async def run(program: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        require_program(program),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def dig(shim: Shim, *arguments: str) -> str:
    output = await run("dig", "@127.0.0.1", "-p", str(shim.port), "+tries=1", "+timeout=6", *arguments)
    assert "WARNING" not in output, output
    assert "malformed" not in output, output
    return output


def status(output: str) -> str:
    found = re.search(r"status: (\w+)", output)
    assert found, output
    return found[1]


async def test_short_answers(shim: Shim) -> None:
    assert await dig(shim, "+short", "www.example.org") == "192.0.2.1\n"
    assert await dig(shim, "+short", "www.example.org", "AAAA") == "2001:db8::1\n"
    assert await dig(shim, "+short", "kitchen") == "10.90.0.2\n"
    assert await dig(shim, "+short", "gateway", "AAAA") == "fd7a:115c:a1e0:9909::1\n"


async def test_reverse(shim: Shim) -> None:
    assert await dig(shim, "+short", "-x", "10.90.0.2") == "kitchen.\n"
    assert await dig(shim, "+short", "-x", "fd7a:115c:a1e0:9909::1") == "gateway.\n"
    assert status(await dig(shim, "-x", "10.90.0.77")) == "NXDOMAIN"


async def test_tcp(shim: Shim) -> None:
    output = await dig(shim, "+tcp", "big.example.org")
    assert "ANSWER: 60" in output
    assert "(TCP)" in output
    assert (await dig(shim, "+tcp", "+short", "kitchen")) == "10.90.0.2\n"
    assert "ANSWER: 100" in await dig(shim, "+tcp", "huge.example.org", "TXT")


async def test_buffer_sizes(shim: Shim) -> None:
    for size in (512, 1000):
        output = await dig(shim, f"+bufsize={size}", "+ignore", "big.example.org")
        assert " tc " in output
        assert "udp: 1232" in output
        found = re.search(r"MSG SIZE  rcvd: (\d+)", output)
        assert found
        assert int(found[1]) <= size
    output = await dig(shim, "+bufsize=4096", "+ignore", "big.example.org")
    assert " tc " not in output
    assert "ANSWER: 60" in output


async def test_truncated_answers_are_fetched_over_tcp(shim: Shim) -> None:
    output = await dig(shim, "+noedns", "big.example.org")
    assert "Truncated, retrying in TCP mode" in output
    assert "ANSWER: 60" in output
    assert "OPT PSEUDOSECTION" not in output


async def test_dnssec(shim: Shim) -> None:
    output = await dig(shim, "+dnssec", "signed.example.org")
    assert "RRSIG\tA 13 3 300" in output
    assert "flags: do" in output
    assert "RRSIG" not in await dig(shim, "signed.example.org")


async def test_cookies_padding_and_other_options_do_no_harm(shim: Shim) -> None:
    for option in ("+cookie", "+nsid", "+padding=128", "+subnet=192.0.2.0/24", "+ednsopt=65001:00ff", "+keepalive"):
        assert status(await dig(shim, option, "www.example.org")) == "NOERROR"
    assert status(await dig(shim, "+edns=1", "+noednsnegotiation", "www.example.org")) == "BADVERS"


async def test_what_is_not_served(shim: Shim) -> None:
    assert status(await dig(shim, "CH", "TXT", "version.bind")) == "REFUSED"
    assert status(await dig(shim, "+opcode=NOTIFY", "+noedns", "www.example.org")) == "NOTIMP"
    assert "Transfer failed" in await dig(shim, "AXFR", "example.org")
    assert "RFC8482" in await dig(shim, "+notcp", "ANY", "www.example.org")
    assert status(await dig(shim, "+header-only", "+noedns")) == "FORMERR"


async def test_failure_within_five_seconds(shim: Shim, upstream: LoopbackResolver) -> None:
    upstream.behaviour.silent = True
    output = await dig(shim, "www.example.org")
    assert status(output) == "SERVFAIL"
    assert "EDE: 22 (No Reachable Authority)" in output
    found = re.search(r"Query time: (\d+) msec", output)
    assert found
    assert int(found[1]) < 5000


async def test_dnsperf(tmp_path: Path, shim: Shim, upstream: LoopbackResolver) -> None:
    upstream.add("\n".join(f"n{number}.example.org 300 A 192.0.2.1" for number in range(50)))
    questions = tmp_path / "questions"
    questions.write_text("".join(f"n{number}.example.org A\n" for number in range(50)) + "kitchen A\ngateway AAAA\n")
    output = await run(
        "dnsperf", "-s", "127.0.0.1", "-p", str(shim.port), "-d", str(questions), "-l", "2", "-c", "4", "-e", "-D"
    )
    assert "Queries lost:         0 " in output, output
    assert re.search(r"Response codes: +NOERROR \d+ \(100.00%\)", output), output
    assert len(upstream.queries) == 50
