"""Builds the sidecar into the wheel, and tags the wheel for the machine that it is for.

LOPOWER_SIDECAR_TARGET says which: `linux/amd64`, `linux/arm64`, `linux/arm/v7`, or `none` for a wheel without it. If it
says nothing, the sidecar is for this machine; where there is no Go, or Go is too old, the wheel has no sidecar and runs
anywhere, and everything but `--tailnet tsnet` works. docs/packaging.md has more.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SETTING: Final = "LOPOWER_SIDECAR_TARGET"
WITHOUT: Final = "none"
# Where the daemon looks for it: in the package, so that it is found however this was installed.
PLACE: Final = "lopower/bin/lopower-sidecar"
# From this on Go reads what go.mod asks for, and fetches a newer Go by itself if it must.
FIRST_GO: Final = (1, 21)
_BITS: Final = struct.calcsize("P") * 8


class SidecarTargetError(Exception):
    """The sidecar cannot be built as the setting says; the text says why and what to do."""


class Target(NamedTuple):
    """A machine that the sidecar is built for.

    Attributes:
        goarch: Go's name of the processor.
        goarm: of ARM's 32-bit floating point and instructions; empty for other processors.
        machine: the processor's name in a wheel's tag.
    """

    goarch: str
    goarm: str
    machine: str

    @property
    def tag(self) -> str:
        """The wheel's tag (PEP 425; the platforms: PEP 600 and PEP 656).

        The program is static: it needs no C library, so glibc's age does not matter, and musl is as good. 2.17 is of
        2012, when kernels were as old as Go takes them; the oldest pip that runs here knows this form of the name.
        """
        return f"py3-none-manylinux_2_17_{self.machine}.musllinux_1_1_{self.machine}"


TARGETS: Final = {
    "linux/amd64": Target("amd64", "", "x86_64"),
    "linux/arm64": Target("arm64", "", "aarch64"),
    # Raspberry Pi OS of 32 bits from the Raspberry Pi 2 on. Its kernel often has 64 bits, which pip allows for.
    "linux/arm/v7": Target("arm", "7", "armv7l"),
}
_OF_MACHINE: Final = {
    ("x86_64", 64): "linux/amd64",
    ("aarch64", 64): "linux/arm64",
    ("aarch64", 32): "linux/arm/v7",
    ("armv8l", 32): "linux/arm/v7",
    ("armv7l", 32): "linux/arm/v7",
}


def native_target(system: str, machine: str, bits: int) -> str | None:
    """What the setting would have to say for a machine; None if the sidecar is not built for it.

    Args:
        system: `sys.platform`.
        machine: as `uname -m` has it, which is the kernel's.
        bits: of the Python that runs, and so of its system.
    """
    return _OF_MACHINE.get((machine, bits)) if system == "linux" else None


def go_version(text: str) -> tuple[int, int] | None:
    """Major and minor of what `go env GOVERSION` says; None if that is no version."""
    found = re.match(r"go(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]))


def choose(setting: str, native: str | None, go: str | None) -> tuple[Target | None, str]:
    """What to build for, and a line for the builder.

    Args:
        setting: what LOPOWER_SIDECAR_TARGET says; empty if it does not.
        native: this machine.
        go: the version of Go that is there, as it says it; None if there is none.

    Raises:
        SidecarTargetError: the setting cannot be followed.
    """
    if setting == WITHOUT:
        return None, f"without the sidecar, as {SETTING} says: everything but `--tailnet tsnet` works"
    if setting and setting not in TARGETS:
        raise SidecarTargetError(f"{SETTING} is {setting!r}; it can be {', '.join(TARGETS)} or {WITHOUT}")
    name = setting or native
    version = None if go is None else go_version(go)
    wanted = "{}.{}".format(*FIRST_GO)
    if go is None:
        lack = "Go is not installed"
    elif version is None or version < FIRST_GO:
        lack = f"Go is too old ({go})"
    elif name is None:
        lack = f"it is built for {', '.join(TARGETS)} alone"
    else:
        return TARGETS[name], f"with the sidecar for {name}"
    if setting:
        raise SidecarTargetError(
            f"{SETTING} is {setting!r}, but {lack}: Go {wanted} or later is needed (https://go.dev/dl/)"
        )
    advice = (
        "" if name is None else f"; for that, install Go {wanted} or later (https://go.dev/dl/) and build this again"
    )
    return None, f"without the sidecar, because {lack}: everything but `--tailnet tsnet` works{advice}"


def installed_go() -> str | None:
    """The version of the Go that is in PATH; None if there is none."""
    program = shutil.which("go")
    if program is None:
        return None
    # The one that is installed, not the one that it might fetch.
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    done = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=environment)
    return done.stdout.strip() or done.stderr.strip()


def build(script: Path, target: Target, output: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Compile the sidecar.

    Raises:
        SidecarTargetError: it does not compile.
    """
    asked = {"GOOS": "linux", "GOARCH": target.goarch, "GOARM": target.goarm}
    done = subprocess.run(
        ["sh", str(script), str(output)], env={**environment, **asked}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SidecarTargetError(
            f"the sidecar could not be built:\n{done.stderr.strip()}\n"
            f"{SETTING}={WITHOUT} in the environment builds lopower without it; all but `--tailnet tsnet` works then"
        )


class SidecarHook(BuildHookInterface[Any]):
    """The hook that hatchling calls for a wheel."""

    PLUGIN_NAME = "custom"
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is packed. An editable installation gets its sidecar from `make setup`."""
        if version == "editable":
            return
        native = native_target(sys.platform, os.uname().machine, _BITS)
        try:
            target, line = choose(os.environ.get(SETTING, ""), native, installed_go())
            self.app.display_info(f"lopower: {line}")
            if target is None:
                return
            self._scratch = tempfile.TemporaryDirectory(prefix="lopower-wheel-")
            program = Path(self._scratch.name) / "lopower-sidecar"
            self.app.display_waiting("lopower: compiling the sidecar; the first time takes some minutes")
            build(Path(self.root) / "host" / "sidecar" / "build.sh", target, program)
        except SidecarTargetError as error:
            sys.exit(f"lopower: {error}")
        build_data["force_include"][str(program)] = PLACE
        build_data["pure_python"] = False
        build_data["tag"] = target.tag

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After it."""
        if self._scratch is not None:
            self._scratch.cleanup()
