"""A board's bootloader on a pty (esp32-mock-bootloader), with flash of any size and a line that faults."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.requirements import require_module

Tap = Callable[[bytes, int], bytes | None]
"""Gets what the host sent and how many bytes came before; returns what the board gets. None: the line goes dead."""


class MockBoard:
    """`port` is where the flasher connects; `flash` is the memory, after and before."""

    def __init__(self, transport: Any, flash: Any) -> None:
        self._transport = transport
        self._image = flash
        self.port: str = transport.client_path

    @property
    def flash(self) -> bytearray:
        data = self._image.data
        assert isinstance(data, bytearray)
        return data

    def damage_while_writing(self, offset: int) -> None:
        """Flip a bit at `offset` after each block that is written."""
        write = self._image.write_defl_block

        def damaged(payload: bytes) -> None:
            write(payload)
            self._image.data[offset] ^= 1

        self._image.write_defl_block = damaged


@contextmanager
def mock_board(
    chip: str, monkeypatch: Any, *, flash_size: int = 4 << 20, tap: Tap | None = None
) -> Iterator[MockBoard]:
    """A board with a blank flash; `chip` is esptool's short name ("esp32s3")."""
    require_module("esp32_mock_bootloader")
    from esp32_mock_bootloader import protocol, server

    # JEDEC ID: the third byte is the binary logarithm of the size.
    monkeypatch.setattr(protocol, "MOCK_FLASH_ID", (flash_size.bit_length() - 1) << 16 | 0x4020)
    monkeypatch.setattr(protocol, "FLASH_MOCK_SIZE", flash_size)
    monkeypatch.setattr(server, "_persistent_flash", None)

    class Line(server.PtyMasterTransport):  # type: ignore[misc]
        received = 0
        dead = False

        def recv(self, size: int) -> bytes:
            data: bytes = super().recv(size)
            before, Line.received = Line.received, Line.received + len(data)
            if self.dead:
                raise TimeoutError
            if tap is not None and data:
                tapped = tap(data, before)
                if tapped is None:
                    Line.dead = True
                    raise TimeoutError
                data = tapped
                if not data:
                    raise TimeoutError
            return data

        def sendall(self, data: bytes) -> None:
            view = memoryview(data)  # a pty takes 4 KB at once
            while view:
                view = view[os.write(self._master, view) :]

    transport = Line.create()
    stop = threading.Event()
    flash = server.get_flash_image()

    def serve() -> None:
        while not stop.is_set():
            connection = server.BootloaderConnection(pty=transport)
            try:
                server.handle_client(connection, stop, chip, None, exit_on_disconnect=False)
            except (TimeoutError, OSError):
                return

    thread = threading.Thread(target=serve, name="bootloader", daemon=True)
    thread.start()
    try:
        yield MockBoard(transport, flash)
    finally:
        stop.set()
        thread.join(10)
        transport.close()
