"""What goes wrong before or while a board is flashed, and what state that leaves the board in."""

from __future__ import annotations

from enum import Enum


class BoardState(Enum):
    """What is on the board when a command failed; the value is a sentence for the user."""

    UNTOUCHED = "Nothing was written: the board runs what it ran before."
    INCOMPLETE = (
        "The flash is written in part: the board does not start, and is not harmed. Run the same command again; "
        "it begins anew. If the board is not found then, hold BOOT while you press RESET."
    )
    WRITTEN = (
        "Everything is written and verified; the board was not restarted. Press RESET, or unplug it and plug it in."
    )
    WITHOUT_KEY = (
        "Everything is written and verified, but the board has no key yet, so it does not connect. "
        "Run the same command again; it begins anew."
    )
    SILENT = (
        "The board is flashed and has its key; the proxy has not heard of it. It goes on trying by itself, "
        "and what is wrong with its settings is put right by running the same command again."
    )


class ProvisioningError(Exception):
    """The text names the fault.

    Attributes:
        hint: what to do next.
        state: what is on the board.
    """

    def __init__(self, message: str, hint: str = "", state: BoardState = BoardState.UNTOUCHED) -> None:
        super().__init__(message)
        self.hint = hint
        self.state = state


class ImageError(ProvisioningError):
    """The image must not be written to this board."""


class SettingsError(ProvisioningError):
    """A configuration that no device can use."""


class FilesystemError(ProvisioningError):
    """The file system cannot be made."""


class FlashError(ProvisioningError):
    """Talking to the board failed."""


class DownloadError(ProvisioningError):
    """Something does not come from the network as it should."""


class RefusedError(ProvisioningError):
    """The user has to say yes to it, and has not."""


class UpdateError(ProvisioningError):
    """A board does not take an update, or does not run it."""
