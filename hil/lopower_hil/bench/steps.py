"""The steps of flashing, in the record of the test."""

from __future__ import annotations

from lopower_hil.bench.recorder import Recorder
from lopower_provisioning.steps import Step


class RecordedSteps:
    """A reporter, as lopower_provisioning.steps has it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def began(self, board: str, step: Step) -> None:
        """Its end says it all."""

    def progressed(self, board: str, step: Step, done: float) -> None:
        """Nobody watches."""

    def ended(self, board: str, step: Step, ok: bool) -> None:
        """One line."""
        what = step.detail if ok else "failed"
        self._recorder.add("test", f"{board}: {step.name}{': ' if what else ''}{what} ({step.seconds:.1f} s)")

    def noted(self, board: str, text: str) -> None:
        """One line."""
        self._recorder.add("test", f"{board}: {text}")
