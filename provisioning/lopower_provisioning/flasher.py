"""A board in its bootloader: which chip, how much flash; write, verify, restart. esptool 5 does the talking.

    with connect("/dev/ttyUSB0") as board:
        region = image.filesystem(board.flash_size)
        board.write([(chip.image_offset, image.content), (region.offset, files)], progress)
        board.restart()

Whatever fails raises FlashError, which says what state the board is in.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import zlib
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from types import TracebackType
from typing import Any, Final

from lopower_provisioning import chips
from lopower_provisioning.chips import Chip
from lopower_provisioning.errors import BoardState, FlashError
from lopower_provisioning.ports import check_right

ROM_BAUD: Final = 115_200
WRITE_BAUD: Final = 460_800
"""Every common USB bridge does it; faster ones fail on some cables."""

CONNECT_ATTEMPTS: Final = 3
"""Of about two seconds each: silence is told soon, and a board that missed one reset is still found."""

_SMALLEST_FLASH: Final = 1 << 20
_log: Final = logging.getLogger("lopower.flash")


class Step(Enum):
    """What is going on; the value is for the user."""

    WRITE = "writing"
    VERIFY = "verifying"


Progress = Callable[[Step, float], None]
"""Called with the step and how much of it is done, 0 to 1, never going back; from the thread that called."""


def connect(port: str, *, reset: bool = True) -> Board:
    """Reset the board at `port` into its bootloader and ask what it is.

    Args:
        port: a device's path or name, or an URL of pyserial (rfc2217://, socket://).
        reset: False for a board that is held in its bootloader by hand.

    Raises FlashError: no port, no right to it, nothing answers, an unknown chip, no esptool.
    """
    try:
        from esptool.cmds import attach_flash, detect_chip, detect_flash_size, run_stub
        from esptool.util import flash_size_bytes
    except ImportError:
        raise FlashError("esptool is not installed", "install it with: pip install 'lopower[flash]'") from None
    _install_logger()
    check_right(port)
    esp: Any = None
    try:
        esp = detect_chip(port, ROM_BAUD, "default-reset" if reset else "no-reset", False, CONNECT_ATTEMPTS)
        chip = chips.by_name(esp.CHIP_NAME)
        if chip is None:
            raise FlashError(f"the board at {port} has the chip {esp.CHIP_NAME}, which lopower does not run on")
        if esp.secure_download_mode:
            raise FlashError(f"the board at {port} is locked: it is in secure download mode")
        mac = ":".join(f"{byte:02x}" for byte in esp.read_mac())
        esp = run_stub(esp)
        attach_flash(esp)
        flash_size = flash_size_bytes(detect_flash_size(esp)) or 0
        if flash_size < _SMALLEST_FLASH:
            raise FlashError(f"the flash of the board at {port} does not tell its size", "is it soldered well?")
        if esp._port.baudrate < WRITE_BAUD:
            esp.change_baud(WRITE_BAUD)
    except FlashError:
        _close(esp)
        raise
    except Exception as error:
        _close(esp)
        raise FlashError(
            f"no ESP32 answers at {port}: {_reason(error)}",
            "check port and cable (some only charge), end other programs that use the port; if it stays silent, "
            "hold BOOT while you press RESET",
        ) from error
    return Board(esp, port, chip, mac, flash_size)


class Board:
    """A board whose bootloader waits for commands; a context manager that closes the port.

    Attributes:
        port: where it is.
        chip: which chip it has.
        mac: its base MAC address, "aa:bb:cc:dd:ee:ff".
        flash_size: bytes of its flash.
        state: what is on it now.
    """

    def __init__(self, esp: Any, port: str, chip: Chip, mac: str, flash_size: int) -> None:
        self._esp = esp
        self.port = port
        self.chip = chip
        self.mac = mac
        self.flash_size = flash_size
        self.state = BoardState.UNTOUCHED

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back. The board stays as it is."""
        _close(self._esp)

    def read(self, offset: int, size: int) -> bytes:
        """What the flash holds. Raises FlashError if it cannot be read."""
        try:
            content: bytes = self._esp.read_flash(offset, size)
        except Exception as error:
            raise FlashError(
                f"reading the flash of the board at {self.port} failed: {_reason(error)}",
                "try another cable",
                self.state,
            ) from error
        return content

    def write(self, regions: Sequence[tuple[int, bytes]], progress: Progress = lambda step, done: None) -> None:
        """Write all regions in one pass, then compare what the flash holds with what was meant to be there.

        Args:
            regions: (offset in bytes from the start of the flash, content).

        Raises FlashError: nothing is written if a region does not fit, or if the chip refuses (secure boot, encrypted
        flash); after anything else the board is as `state` says.
        """
        for offset, content in regions:
            if offset + len(content) > self.flash_size:
                raise FlashError(
                    f"what is to be written ends at {offset + len(content):#x}, "
                    f"the board's flash at {self.flash_size:#x}"
                )
        from esptool.cmds import write_flash

        meter = _Meter([len(zlib.compress(content, 9)) for _, content in regions], self._begun, progress)
        try:
            _current.meter = meter
            self._refuse_locked()
            write_flash(self._esp, list(regions), compress=True)
            for place, (offset, content) in enumerate(regions):
                progress(Step.VERIFY, place / len(regions))
                digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
                if self._esp.flash_md5sum(offset, len(content)) != digest:
                    raise FlashError(
                        f"the flash from {offset:#x} on does not hold what was written to it",
                        "the flash may be worn out or its supply weak: try another cable or USB port",
                        self.state,
                    )
        except FlashError:
            raise
        except Exception as error:
            raise FlashError(
                f"writing to the board at {self.port} failed: {_reason(error)}",
                "see that the cable sits well, or try another one or another USB port",
                self.state,
            ) from error
        finally:
            _current.meter = None
        self.state = BoardState.WRITTEN
        progress(Step.VERIFY, 1.0)

    def restart(self) -> None:
        """Start what is in flash. Raises FlashError if the port does not take the command."""
        from esptool.cmds import reset_chip

        try:
            reset_chip(self._esp, "hard-reset")
        except Exception as error:
            raise FlashError(
                f"the board at {self.port} was not restarted: {_reason(error)}", "press RESET", self.state
            ) from error

    def _refuse_locked(self) -> None:
        """What such a chip would be given it could not start."""
        if self._esp.get_secure_boot_enabled() or self._esp.get_flash_encryption_enabled():
            raise FlashError(f"the board at {self.port} is locked: it has secure boot, or its flash is encrypted")

    def _begun(self) -> None:
        self.state = BoardState.INCOMPLETE


class _Meter:
    """esptool counts the compressed bytes of each region from 0; one figure of all of them."""

    def __init__(self, sizes: Sequence[int], begun: Callable[[], None], progress: Progress) -> None:
        self._sizes = sizes
        self._begun = begun
        self._progress = progress
        self._place = 0
        self._last = 0
        self._most = 0.0

    def begin(self) -> None:
        """Erasing or writing starts."""
        self._begun()

    def count(self, sent: int) -> None:
        if sent < self._last:  # the next region, or the same once more after the connection was lost
            self._place = min(self._place + 1, len(self._sizes) - 1)
        self._last = sent
        done = (sum(self._sizes[: self._place]) + sent) / max(1, sum(self._sizes))
        self._most = max(self._most, min(1.0, done))
        self._progress(Step.WRITE, self._most)


class _Current(threading.local):
    """Each thread flashes a board of its own; esptool has one logger for all."""

    meter: _Meter | None = None


_current: Final = _Current()


@cache  # esptool has one logger in a process, which cannot be replaced once more
def _install_logger() -> None:
    from esptool.logger import TemplateLogger, log
    from esptool.reset import ResetStrategy

    class Logger(TemplateLogger):  # type: ignore[misc]
        """What esptool says goes to the log; its progress to the meter."""

        def print(self, *args: object, **options: object) -> None:
            _log.debug("%s", " ".join(map(str, args)))

        def note(self, message: str) -> None:
            _log.debug("%s", message)

        def warning(self, message: str) -> None:
            _log.info("%s", message)

        def error(self, message: str) -> None:
            _log.info("%s", message)

        def stage(self, finish: bool = False) -> None:
            """esptool erases and writes in stages, and nothing before the first of them."""
            if _current.meter is not None and not finish:
                _current.meter.begin()

        def progress_bar(
            self, cur_iter: int, total_iters: int, prefix: str = "", suffix: str = "", bar_length: int = 30
        ) -> None:
            if _current.meter is not None:
                _current.meter.count(cur_iter)

        def set_verbosity(self, verbosity: str) -> None:
            """The log has levels of its own."""

    log.set_logger(Logger())
    # It took the logger of the time when it was imported. A port without control lines, such as a pty, is no fault.
    ResetStrategy.print_once.print_callback = lambda text: _log.debug("%s", text)


def _reason(error: Exception) -> str:
    """The first sentence: esptool adds pages to some of its errors."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _close(esp: Any) -> None:
    if esp is not None:
        try:
            esp._port.close()
        except Exception as error:  # a port that is gone: there is nothing to give back
            _log.debug("closing: %r", error)
