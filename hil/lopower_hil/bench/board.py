"""One board of the bench, as a test uses it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from lopower.control.errors import ControlError
from lopower_hil.bench.console import Console
from lopower_hil.bench.errors import BenchError, LackingError
from lopower_hil.bench.proxy import Proxy
from lopower_hil.bench.recorder import Recorder
from lopower_hil.bench.steps import RecordedSteps
from lopower_hil.bench.surroundings import Switch, WifiNetwork
from lopower_provisioning import board_programs, job, settings_file
from lopower_provisioning.chips import Chip
from lopower_provisioning.errors import ProvisioningError
from lopower_provisioning.repl import RunningBoard
from lopower_provisioning.targets import DaemonTarget

BOOT_SECONDS: Final = 4.0
"""How long a program is left to come to its prompt by itself before it is interrupted. Interrupting boot.py would keep
lopower from starting."""

DRAIN_SECONDS: Final = 0.3
"""What a board said before its power went is on its way for so long."""

_PROMPT: Final = ">>> "
_PIECE: Final = 384

ImageOf = Callable[[Chip | None], Path | None]


class Board:
    """A board, with its console open.

    Attributes:
        name: on the bench.
        port: where it is.
        device: its name as a device of the proxy that it was flashed for, or joined; "" before.
        wifi: the network that it joins.
    """

    def __init__(
        self,
        *,
        name: str,
        port: str,
        wifi: WifiNetwork,
        power: Switch | None,
        image: Path | None,
        cache: Path,
        recorder: Recorder,
    ) -> None:
        """`image`: None for the newest stock image for its chip, which is downloaded to `cache`."""
        self.name = name
        self.port = port
        self.wifi = wifi
        self.device = ""
        self.console = Console(port, recorder.source(name))
        self._switch = power
        self._image = image
        self._cache = cache
        self._recorder = recorder
        self._flashed_with: Path | None = None
        self._is_flashed = False
        self._repl: RunningBoard | None = None
        self._is_booting = True
        self._proxy: Proxy | None = None
        self._since = 0
        self._started = 0.0

    def __repr__(self) -> str:
        return f"<Board {self.name} at {self.port}>"

    # What it runs

    def flash(self, proxy: Proxy, *, main: Path | str | None = None, name: str | None = None) -> None:
        """Make it a device of `proxy`, whatever it was, as `lopower flash` does, and wait for its handshake.

        Args:
            main: a directory whose content lies below `/` of the board.
            name: of the device; None: from chip and MAC.

        Raises BenchError, which says at which step it failed and what state the board is in.
        """
        self._forget("flash")
        main = None if main is None else Path(main)
        with self.console.released():
            outcome = job.flash(
                job.Request(
                    port=self.port,
                    label=self.name,
                    target=DaemonTarget(proxy.client),
                    cache=self._cache,
                    confirm=lambda *_: True,  # a board of a bench has nothing that must be kept
                    name=name,
                    wifi=self._networks(),
                    image=self._image,
                    main=main,
                ),
                RecordedSteps(self._recorder),
            )
        if outcome.state == "failed":
            raise BenchError(f"{self.name}: {outcome.error}. {outcome.board_state} {outcome.hint}")
        self.device, self._proxy = outcome.name, proxy
        self._is_flashed, self._flashed_with = True, main
        self._is_booting = False  # its handshake was seen, so boot.py has ended
        if main is not None:  # so that nothing is missed of what it prints
            self.reset()
            self.wait_connected()

    def join(self, proxy: Proxy, *, main: Path | str | None = None) -> None:
        """As `flash`, but write only what the board has not got: of one that was flashed in this session with the same
        files, only the settings, with a new key.

        Raises BenchError.
        """
        if not self._is_flashed or self._flashed_with != (None if main is None else Path(main)):
            return self.flash(proxy, main=main)
        try:
            self._enrol(proxy)
        except ProvisioningError:  # the programs of the test before may have left no memory
            self.reset()
            try:
                self._enrol(proxy)
            except (ProvisioningError, ControlError) as error:
                raise BenchError(f"{self.name} does not join the proxy: {error}") from None
        except ControlError as error:
            raise BenchError(f"{self.name} does not join the proxy: {error}") from None
        self._proxy = proxy
        self.reset()
        if main is None:  # nothing of the user's is interrupted, and a handshake is faster when it alone is computed
            self.run("import lopower\nlopower.wait(60)", 70)
        return self.wait_connected()

    def install(self, files: Mapping[str, str | bytes]) -> None:
        """Write files of the board, by their paths; directories are made. Raises BenchError."""
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
            parents = [path[:at] for at, letter in enumerate(path) if letter == "/" and at]
            self.run(
                f"import os\nfrom binascii import a2b_base64\nfor d in {parents!r}:\n"
                " try: os.mkdir(d)\n except OSError: pass\n"
                f"_f = open({path!r}, 'wb')"
            )
            for piece in pieces:
                self.run(f"_f.write(a2b_base64({base64.b64encode(piece).decode()!r}))")
            self.run("_f.close()")

    def run(self, program: str, timeout: float = 30.0) -> str:
        """Interrupt what runs, and run MicroPython code beside lopower, which goes on; what it printed.

        Raises BenchError if it raises, or does not end within `timeout` seconds.
        """
        try:
            return self._running().run(program, timeout).replace("\r\n", "\n")
        except ProvisioningError as error:
            self._repl = None
            raise BenchError(f"{self.name}: {error}; it printed: {self.console.text(self._since)[-1000:]}") from None

    def start(self, program: str) -> None:
        """The same for a program that does not end; `wait_for` waits for what it prints, `run` interrupts it."""
        running = self._running()
        self._since = self.console.position
        running.start(program)
        self._repl = None

    def update(self, *options: str) -> None:
        """As `lopower update` does it, with options of that command; returns when the new set has made a handshake.

        Raises BenchError with what the command said, when the board runs what it ran before.
        """
        proxy = self._proxied()
        self._forget("update")
        self._is_flashed = False  # the new set has settings of its own: those that `join` writes would not count
        proxy.lopower("update", self.device, *options)

    # What it says

    def wait_for(self, text: str, timeout: float = 30.0) -> str:
        """Wait until the board prints `text`; all that it printed since its last start, or since `start`.

        Raises BenchError with the end of what it printed instead.
        """
        return self.console.wait_for(text, timeout, self._since)

    def wait_connected(self, timeout: float = 90.0) -> None:
        """Wait until its proxy has seen a handshake of it since it was last reset, or given power.

        Raises BenchError with what the proxy says of it instead.
        """
        proxy = self._proxied()
        try:
            proxy.wait_connected(self.device, timeout, since=self._started)
        except BenchError as error:
            raise BenchError(f"{error}; the board says: {self._state()}") from None

    @property
    def printed(self) -> str:
        """All that it printed since its last start, or since `start`."""
        return self.console.text(self._since)

    # What is done to it

    def reset(self) -> None:
        """A hard reset, by itself; returns at once. Raises BenchError."""
        try:
            running = self._running()
            self._forget("reset")
            running.reset()
        except ProvisioningError as error:
            raise BenchError(f"{self.name}: {error}") from None

    def wait_for_boot(self, timeout: float = 30.0) -> None:
        """After a reset, a deep sleep or a power cut: until it is at its prompt. Raises BenchError."""
        self._repl = None
        self.wait_for(_PROMPT, timeout)

    @property
    def has_power_switch(self) -> bool:
        """Whether `power_off` works."""
        return self._switch is not None

    def power_off(self) -> None:
        """Take its power away. Raises LackingError if the bench cannot."""
        self._power().off()
        time.sleep(DRAIN_SECONDS)
        self._forget("power off")

    def power_on(self) -> None:
        """Give it power; returns at once. Raises LackingError if the bench cannot."""
        self._forget("power on")
        self._power().on()

    def wifi_off(self) -> None:
        """Switch its access point off. Raises LackingError if the bench cannot."""
        self._recorder.add("test", f"{self.name}: Wi-Fi off")
        self._access_point().off()

    def wifi_on(self) -> None:
        """And on. Raises LackingError if the bench cannot."""
        self._recorder.add("test", f"{self.name}: Wi-Fi on")
        self._access_point().on()

    def set_name(self, name: str, address: str) -> None:
        """Let the DNS server of its network say so. Raises LackingError if the bench cannot."""
        if self.wifi.names is None:
            raise LackingError(f"names in the network of {self.name} cannot be set (marker wifi_names)")
        self._recorder.add("test", f"{self.name}: {name} is {address}")
        self.wifi.names.set(name, address)

    def settle(self) -> None:
        """After a test: with power, with Wi-Fi, with its console open. Raises BenchError."""
        if self._switch is not None:
            self._switch.on()
        if self.wifi.switch is not None:
            self.wifi.switch.on()
        self.console.open()

    def close(self) -> None:
        """Give the port back."""
        self.console.close()

    def _enrol(self, proxy: Proxy) -> None:
        """The board makes a key, and gets its settings. Raises ProvisioningError, ControlError."""
        running = self._running()
        public_key = board_programs.make_key(running)
        target = DaemonTarget(proxy.client)
        target.prepare(self.device, True, lambda *_: True)
        tunnel = target.enrol(self.device, "", public_key)
        content = settings_file.settings(tunnel, wifi=self._networks(), written=int(time.time()), hostname=self.device)
        board_programs.store_settings(running, json.loads(content))

    def _proxied(self) -> Proxy:
        if self._proxy is None:
            raise BenchError(f"{self.name} is no device of a proxy: board.flash(proxy) makes it one")
        return self._proxy

    def _power(self) -> Switch:
        if self._switch is None:
            raise LackingError(f"{self.name} has no power switch (marker power)")
        return self._switch

    def _access_point(self) -> Switch:
        if self.wifi.switch is None:
            raise LackingError(f"the access point of {self.name} cannot be switched (marker wifi_ap)")
        return self.wifi.switch

    def _state(self) -> str:
        """What lopower on it says of itself, or why it does not."""
        try:
            return board_programs.state(self._running())
        except ProvisioningError as error:
            return str(error)

    def _networks(self) -> tuple[settings_file.Wifi, ...]:
        return (settings_file.Wifi(self.wifi.ssid, self.wifi.password),)

    def _forget(self, what: str) -> None:
        """It starts anew: what was said to it is gone."""
        self._recorder.add("test", f"{self.name}: {what}")
        self._repl = None
        self._is_booting = True
        self._since = self.console.position
        self._started = time.monotonic()

    def _running(self) -> RunningBoard:
        """Its raw REPL. Raises ProvisioningError if it does not answer."""
        if self._repl is None:
            if self._is_booting:
                try:
                    self.console.wait_for(_PROMPT, BOOT_SECONDS, self._since)
                except BenchError:
                    pass  # a program of the user's that does not end
            running = RunningBoard(self.port, self.console.tap(self.console.position))
            running.interrupt(0.0)
            self._repl, self._is_booting = running, False
        return self._repl
