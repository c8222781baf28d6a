"""One board, from whatever it was to a device of the tailnet; each step says what state it leaves the board in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from lopower.control.errors import ControlError
from lopower_provisioning import (
    board_programs,
    contents,
    filesystem,
    flasher,
    images,
    mip,
    settings_file,
    stock,
    targets,
)
from lopower_provisioning.chips import Chip
from lopower_provisioning.contents import Contents, Kind
from lopower_provisioning.errors import BoardState, FlashError, ImageError, ProvisioningError, RefusedError
from lopower_provisioning.flasher import Board
from lopower_provisioning.images import Image
from lopower_provisioning.partitions import Region
from lopower_provisioning.ports import has_reset_lines
from lopower_provisioning.repl import RunningBoard
from lopower_provisioning.settings_file import Tunnel, Wifi
from lopower_provisioning.steps import Reporter, Step, step
from lopower_provisioning.targets import Confirm, Seen, Target

BOARD_SECONDS: Final = 60.0
"""How long a board that nobody sees from outside is asked whether its tunnel is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a board is to become.

    Attributes:
        name: of the device; None: from chip and MAC.
        label: what it is called while its name is not known.
        chip: the only one that it may have.
        board: name of the stock image; None: the one for its chip. Not with `image`.
        image: a file.
        main: a directory whose content lies below `/`.
        packages: as `mip.packages` takes them.
        key_on_board: the board makes its key itself.
        may_be_silent: it is not waited for a handshake, because nobody could see one.
        remote_repl: the gateway may use the board's console.
        cache: directory for images.
    """

    port: str
    label: str
    target: Target
    cache: Path
    confirm: Confirm
    name: str | None = None
    wifi: tuple[Wifi, ...] = ()
    chip: Chip | None = None
    board: str | None = None
    image: Path | None = None
    main: Path | None = None
    packages: tuple[str, ...] = ()
    key_on_board: bool = True
    may_be_silent: bool = False
    remote_repl: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of a board.

    Attributes:
        state: "connected" (a handshake was seen), "flashed" (nobody can see one), "failed", or "stopped" by Ctrl-C.
        board_state: unless it is done: what is on the board now.
    """

    label: str
    port: str
    state: str = "failed"
    name: str = ""
    mac: str = ""
    chip: str = ""
    image: str = ""
    public_key: str = ""
    addresses: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    error: str = ""
    board_state: str = ""
    hint: str = ""
    seconds: float = 0.0


def flash(request: Request, reporter: Reporter) -> Outcome:
    """Do it all. What goes wrong is told in the outcome, which is never an exception but of our own making."""
    began = time.monotonic()
    outcome = Outcome(request.label, request.port)
    job = _Job(request, reporter, outcome)
    try:
        outcome.state = job.run()
    except ProvisioningError as error:
        outcome.error, outcome.hint = str(error), error.hint
        outcome.board_state = (job.state if error.state is BoardState.UNTOUCHED else error.state).value
    except ControlError as error:
        outcome.error, outcome.hint, outcome.board_state = error.message, error.hint, job.state.value
    except KeyboardInterrupt:
        outcome.state, outcome.error, outcome.board_state = "stopped", "stopped by Ctrl-C", job.state.value
    outcome.seconds = round(time.monotonic() - began, 3)
    return outcome


class _Job:
    def __init__(self, request: Request, reporter: Reporter, outcome: Outcome) -> None:
        self._request = request
        self._outcome = outcome
        self._reporter = reporter
        self._step: Callable[[str], Any] = partial(step, reporter, request.label)
        self._enrolled = False
        self.state = BoardState.UNTOUCHED

    def run(self) -> str:
        """All steps; when one fails after the board was enrolled, and its key is not on the board, that is undone.

        Returns the outcome's state.
        """
        try:
            return self._run()
        except BaseException:
            if self._enrolled:
                self._take_back()
            raise

    def _run(self) -> str:
        request, outcome = self._request, self._outcome
        with self._step("finding the board") as current:
            board = flasher.connect(request.port)
            outcome.chip, outcome.mac = board.chip.name, board.mac
            current.detail = f"{board.chip.name}, {board.flash_size >> 20} MB of flash, {board.mac}"
        with board:
            try:
                private_key = self._flash(board)
            except BaseException:
                if board.state is BoardState.UNTOUCHED:
                    with suppress(FlashError):
                        board.restart()  # out of the bootloader, to what it ran before
                raise
        if private_key is None:
            self._key_on_board()
        return self._wait()

    def _flash(self, board: Board) -> str | None:
        """Everything in the board's bootloader; the private key, if the board has it now."""
        request, outcome = self._request, self._outcome
        name = outcome.name = request.name or default_name(board)
        self._look(board, name)
        image, region = self._image(board)
        user = self._user_files()
        private_key: str | None = None
        if request.target.own_key is not None:
            private_key, outcome.public_key = request.target.own_key, targets.public_half(request.target.own_key)
        elif not request.key_on_board:
            private_key, outcome.public_key = targets.key_pair()
        tunnel = None if private_key is None else self._enrol(private_key)
        with self._step("making the file system") as current:
            files = self._files(board, region, tunnel, user)
            current.detail = f"{_size(files) >> 10} KB"
        self._write(board, image, files)
        if private_key is not None:
            self._enrolled, self.state = False, BoardState.SILENT
        return private_key

    def _look(self, board: Board, name: str) -> None:
        """Whether this is a board that may be written to, and a name that it may have."""
        request = self._request
        if request.chip is not None and board.chip != request.chip:
            raise ImageError(
                f"the board at {board.port} has the chip {board.chip.name}, not {request.chip.name}",
                "is it the right port? `lopower boards --probe` shows them all",
            )
        with self._step("looking at what it holds") as current:
            found = contents.identify(board)
            current.detail = " ".join(filter(None, (found.kind.value, found.name)))
        request.target.prepare(name, found.name == name or request.name is None, request.confirm)
        unfinished = self._unfinished(board).exists()
        if found.kind in (Kind.BLANK, Kind.LOPOWER) or unfinished:
            return
        if not request.confirm(f"{_described(found, board.port)} Write over it?", "all that is on it is lost"):
            raise RefusedError(
                f"{_described(found, board.port)} Nothing was written",
                "say --yes if all that is on it may be lost",
            )

    def _image(self, board: Board) -> tuple[Image, Region]:
        """The image, whole and for this board."""
        request = self._request
        with self._step("getting the image") as current:
            if request.image is not None:
                try:
                    content = request.image.read_bytes()
                except OSError as error:
                    raise ImageError(f"{request.image} cannot be read: {error.strerror}") from None
                image, current.detail = images.parse(content), request.image.name
            else:
                wanted = request.board or stock.board_for(board.chip, board.flash_size)
                found = stock.stock_image(wanted, request.cache, progress=current.progress)
                image, current.detail = found.image, f"{found.file.name}, SHA-256 {found.sha256[:16]}..."
                if found.note:
                    self._reporter.noted(request.label, found.note)
            self._outcome.image = current.detail
            images.check_chip(image, board.chip)
            return image, image.filesystem(board.flash_size)

    def _user_files(self) -> dict[str, bytes]:
        request = self._request
        files: dict[str, bytes] = {}
        if request.packages:
            with self._step("getting packages") as current:
                files |= mip.packages(request.packages)
                current.detail = f"{len(files)} files"
        if request.main is not None:
            files |= filesystem.user_files(request.main)
        return files

    def _files(
        self, board: Board, region: Region, tunnel: Tunnel | None, user: dict[str, bytes]
    ) -> list[tuple[int, bytes]]:
        content = filesystem.build(
            region.size, architecture=board.chip.architecture, settings=self._settings(tunnel), user=user
        )
        return filesystem.pieces(content, region)

    def _settings(self, tunnel: Tunnel | None) -> bytes:
        request = self._request
        return settings_file.settings(
            tunnel,
            wifi=request.wifi,
            written=int(time.time()),
            hostname=self._outcome.name,
            remote_repl=request.remote_repl,
        )

    def _write(self, board: Board, image: Image, files: list[tuple[int, bytes]]) -> None:
        """Image and file system in one pass; a board that is left in between may be written to again unasked."""
        mark = self._unfinished(board)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        shown: dict[flasher.Step, Step] = {}

        with self._step(flasher.Step.WRITE.value) as current:

            def progress(kind: flasher.Step, done: float) -> None:
                if kind is flasher.Step.WRITE:
                    current.progress(done)
                elif kind not in shown:
                    shown[kind] = current
                    current.detail = f"{(len(image.content) + _size(files)) >> 10} KB, verified"

            try:
                board.write([(board.chip.image_offset, image.content), *files], progress)
            finally:
                self.state = board.state
            board.restart()
        mark.unlink(missing_ok=True)
        if not has_reset_lines(board.port):
            self._reporter.noted(self._request.label, "this port cannot reset the board: press its RESET button now")
        self.state = BoardState.WITHOUT_KEY

    def _enrol(self, private_key: str | None) -> Tunnel:
        outcome = self._outcome
        with self._step("enrolling") as current:
            self._enrolled = True  # before it is asked for: an answer may be lost
            tunnel = self._request.target.enrol(outcome.name, outcome.mac, outcome.public_key)
            outcome.addresses = tunnel.addresses
            outcome.names = [outcome.name, *(f"{outcome.name}.{domain}" for domain in self._request.target.domains)]
            current.detail = f"{outcome.name}, {', '.join(tunnel.addresses)}"
        return Tunnel(tunnel.proxy, private_key, tunnel.name)

    def _key_on_board(self) -> None:
        """The board makes its key, is enrolled with its public half, gets its settings and starts with them."""
        with self._step("starting the board"):
            running = RunningBoard(self._request.port)
        with running:
            with self._step("making the key on the board"):
                running.interrupt()
                self._outcome.public_key = board_programs.make_key(running)
            tunnel = self._enrol(None)
            with self._step("storing the settings"):
                board_programs.store_settings(running, json.loads(self._settings(tunnel)))
                self._enrolled = False
                self.state = BoardState.SILENT
                running.reset()

    def _wait(self) -> str:
        """Until the proxy has heard of it, or, where nobody can say that, until the board says so."""
        request, outcome = self._request, self._outcome
        if request.may_be_silent:
            return "flashed"
        with self._step("waiting for the handshake") as current:
            seen = request.target.wait(outcome.name, current.progress)
            if seen is None:
                self._ask_board(current)
            elif not seen.connected:
                raise self._silent(seen)
            return "connected"

    def _ask_board(self, current: Step) -> None:
        """Over the serial port, without resetting it: what runs is interrupted, and started anew afterwards."""
        said = ""
        with RunningBoard(self._request.port) as running:
            running.interrupt()
            deadline = time.monotonic() + BOARD_SECONDS
            while time.monotonic() < deadline:
                said = board_programs.state(running)
                if said == "up":
                    running.reset()
                    return
                current.progress(1 - (deadline - time.monotonic()) / BOARD_SECONDS)
                time.sleep(1.0)
            with suppress(FlashError):
                running.reset()
        raise ProvisioningError(f"the tunnel does not come up; the board says: {said}", _ADVICE, BoardState.SILENT)

    def _silent(self, seen: Seen) -> ProvisioningError:
        """Why there is no handshake, by what the board says and what the proxy has found."""
        said = ""
        with suppress(FlashError), RunningBoard(self._request.port) as running:
            running.interrupt()
            said = board_programs.state(running)
            running.reset()
        reasons = [f"the board says: {said}"] if said else []
        reasons += [f"the proxy says: {text}" for text in seen.findings[:1]]
        return ProvisioningError(
            "the proxy has seen no handshake" + ("; " if reasons else "") + "; ".join(reasons),
            _ADVICE,
            BoardState.SILENT,
        )

    def _take_back(self) -> None:
        """The enrolment, as the key is on no board."""
        self._enrolled = False
        try:
            self._request.target.take_back()
        except (ControlError, ProvisioningError) as error:
            raise targets.unreached(error, self._outcome.name, self.state) from None
        self._reporter.noted(self._request.label, f"the enrolment of {self._outcome.name} was taken back")

    def _unfinished(self, board: Board) -> Path:
        return self._request.cache / "unfinished" / board.mac.replace(":", "")


_ADVICE: Final = (
    "check the Wi-Fi's name and password, and that the proxy's UDP port is reached from that Wi-Fi; "
    "`lopower device show` goes on saying what the proxy sees"
)


def _size(pieces: list[tuple[int, bytes]]) -> int:
    return sum(len(content) for _, content in pieces)


def default_name(board: Board) -> str:
    """From chip and MAC: esp32-a1b2c3."""
    return f"{board.chip.name.lower()}-{board.mac.replace(':', '')[-6:]}"


def _described(found: Contents, port: str) -> str:
    runs = found.firmware or "something that lopower does not know"
    return (
        f"The board at {port} runs {runs}."
        if found.kind is Kind.UNKNOWN
        else (f"The board at {port} runs {runs}, perhaps with files of yours.")
    )
