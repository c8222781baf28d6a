"""How DTR and RTS reset a board, and into which mode.

Development boards have two transistors between the USB bridge and the chip's EN and IO0 (esptool's documentation, "Boot
Mode Selection", "Automatic Bootloader"): RTS alone pulls EN low, DTR alone pulls IO0 low, both or none do nothing. A
capacitor at EN makes it rise late, and IO0 counts at that moment.

Chips with USB-Serial-JTAG (S3, C3, C6) have no such circuit: DTR alone arms download mode, RTS without DTR resets
(Technical Reference Manual, "USB Serial/JTAG Controller").
"""

from __future__ import annotations

from typing import Final, Protocol

RISE: Final = 0.25
"""Seconds after which EN has risen if the control lines do not change before. A real one needs milliseconds, but real
control lines change within microseconds of each other, and these after a round trip."""


class ResetLines(Protocol):
    """Fed with the control lines; says what becomes of the chip.

    Attributes:
        in_reset: whether the chip is held in reset.
    """

    in_reset: bool

    def set(self, dtr: bool, rts: bool, now: float) -> bool | None:
        """None: nothing starts. Otherwise the chip starts now; True: in download mode."""

    def next_timer(self) -> float | None:
        """When to call `handle_timer`."""

    def handle_timer(self, now: float) -> bool | None:
        """As `set`."""


class AutoReset:
    """The two transistors and the capacitor."""

    def __init__(self) -> None:
        self.in_reset = False
        self._io0_low = False
        self._rises: float | None = None

    def set(self, dtr: bool, rts: bool, now: float) -> bool | None:
        enabled = not (rts and not dtr)
        self._io0_low = dtr and not rts
        if not enabled:
            self.in_reset = True
            self._rises = None
            return None
        if not self.in_reset:
            return None
        if self._rises is None and dtr and rts:
            self._rises = now + RISE
            return None
        return self._start()

    def next_timer(self) -> float | None:
        return self._rises

    def handle_timer(self, now: float) -> bool | None:
        return self._start() if self._rises is not None and now >= self._rises else None

    def _start(self) -> bool:
        self.in_reset = False
        self._rises = None
        return self._io0_low


class UsbSerialJtag:
    """The chip's own USB port."""

    def __init__(self) -> None:
        self.in_reset = False
        self._download = False

    def set(self, dtr: bool, rts: bool, now: float) -> bool | None:
        if rts and not dtr:
            self.in_reset = True
            return None
        if self.in_reset:
            self.in_reset = False
            download, self._download = self._download, dtr
            return download
        if not rts:
            self._download = dtr
        return None

    def next_timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> bool | None:
        return None
