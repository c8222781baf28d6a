"""Any order of writing, ending and resetting on both sides: what was said in order arrives, and nothing is left."""

from __future__ import annotations

import asyncio
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.errors import FlowError
from tests.support.bridge_devices import make_device
from tests.support.bridge_world import running

Step = tuple[Literal["device", "upstream"], int]

# A number of bytes to write; 0 ends the direction.
steps = st.lists(
    st.tuples(st.sampled_from(["device", "upstream"]), st.sampled_from([0, 1, 100, 1380, 5000, 200_000])), max_size=10
)


def pattern(seed: int, size: int) -> bytes:
    return bytes([seed % 251 + 1]) * size


async def exchange(script: list[Step], use_epoll: bool, reset: bool) -> None:
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
        asyncio.get_running_loop().create_future()
    )
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0, limit=1 << 22
    )
    port = server.sockets[0].getsockname()[1]
    async with running(make_device(2), use_epoll=use_epoll) as world:
        stream = await world.devices[0].connect("100.64.0.9", port)
        reader, writer = await accepted
        up = asyncio.create_task(reader.read(-1))
        down = asyncio.create_task(stream.read_all())
        said = {"device": b"", "upstream": b""}
        ended: set[str] = set()

        async def end(side: str) -> None:
            if side not in ended:
                ended.add(side)
                if side == "device":
                    stream.finish()
                else:
                    writer.write_eof()

        for number, (side, size) in enumerate(script):
            if side in ended:
                continue
            if not size:
                await end(side)
                continue
            data = pattern(number, size)
            said[side] += data
            if side == "device":
                await stream.write(data)
            else:
                writer.write(data)
                await writer.drain()
        if reset:
            stream.abort()
            results = await asyncio.wait_for(asyncio.gather(up, down, return_exceptions=True), 10)
            for result, whose in zip(results, ("device", "upstream"), strict=True):
                assert isinstance(result, FlowError | ConnectionError) or result == said[whose]
        else:
            await end("device")
            await end("upstream")
            assert await asyncio.wait_for(up, 10) == said["device"]
            assert await asyncio.wait_for(down, 10) == said["upstream"]
        await world.until(lambda: not len(world.bridge.flows) and not world.stack.tcp.connection_count)
        assert not len(world.poller)
        writer.close()
    server.close()
    await server.wait_closed()


@settings(max_examples=60, deadline=None)
@given(steps, st.booleans(), st.booleans())
def test_any_order(script: list[Step], use_epoll: bool, reset: bool) -> None:
    asyncio.run(exchange(script, use_epoll, reset))
