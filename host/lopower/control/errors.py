"""What can go wrong between the client and the daemon; each text is for a person."""

from __future__ import annotations


class ControlError(Exception):
    """The daemon refused.

    Attributes:
        message: what happened and why.
        hint: what to do next; may be empty.
        status: the HTTP status; 0: there was no answer.
    """

    def __init__(self, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


class DaemonNotRunningError(ControlError):
    """Nobody listens at the control socket."""


class SocketForbiddenError(ControlError):
    """The user may not use the control socket."""


class ProtocolError(ControlError):
    """What answered does not speak the control API."""
