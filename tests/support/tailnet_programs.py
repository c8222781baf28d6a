"""Programs of the test tailnets, each built once per environment: ours, `tailscaled` and headscale."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.requirements import require_program
from tests.support.tailnet_world import (
    ROOT,
    SIDECAR_SOURCE,
    WORLD_NAME,
    WORLD_SOURCE,
    beside_interpreter,
    build_world,
    run_build,
)

HEADSCALE_SOURCE = ROOT / "tests" / "tailnet" / "headscale"
# The sidecar's tags leave these out, which a node with a TUN device and its command-line client need.
_NEEDED_BY_TAILSCALED = ("cli", "osrouter", "unixsocketidentity")
_BUILD = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]


def world() -> Path:
    """The test tailnet of hil/tailnet_world: as `make test-programs` made it, else built."""
    files = [*sorted(WORLD_SOURCE.glob("*.go")), WORLD_SOURCE / "go.mod", WORLD_SOURCE / "go.sum"]
    inputs = b"".join(file.read_bytes() for file in files)
    return beside_interpreter(WORLD_NAME) or _once(WORLD_NAME, inputs + _tags().encode(), build_world)


def tailscaled() -> Path:
    """`tailscaled`, of the version that the sidecar embeds; called by the name `tailscale` it is that command."""
    version = _go(["list", "-m", "-f", "{{.Version}}", "tailscale.com"], SIDECAR_SOURCE).strip()
    tags = [tag for tag in _tags().split(",") if tag.removeprefix("ts_omit_") not in _NEEDED_BY_TAILSCALED]
    arguments = ["-tags", ",".join([*tags, "ts_include_cli"]), f"tailscale.com/cmd/tailscaled@{version}"]

    def build(place: Path) -> None:
        _go(["install", *_BUILD, *arguments], ROOT, GOBIN=str(place))
        (place / "tailscale").symlink_to("tailscaled")

    return _once("tailscaled", " ".join(arguments).encode(), build)


def headscale() -> Path:
    """headscale, the control server that we did not write, of the version in its go.mod."""

    def build(place: Path) -> None:
        package = "github.com/juanfont/headscale/cmd/headscale"
        _go(["build", *_BUILD, "-o", str(place / "headscale"), package], HEADSCALE_SOURCE)

    return _once("headscale", (HEADSCALE_SOURCE / "go.sum").read_bytes(), build)


def _tags() -> str:
    return subprocess.run(
        ["sh", SIDECAR_SOURCE / "build.sh", "--tags"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip


def _once(name: str, inputs: bytes, build: Callable[[Path], object]) -> Path:
    """The program, built in a directory of its own where no other of the same inputs was."""
    place = Path(sys.prefix) / "tailnet-programs" / f"{name}-{hashlib.sha256(inputs).hexdigest()[:16]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / name).exists():
            build(place)
    return place / name


def _go(arguments: list[str], source: Path, **environment: str) -> str:
    """What `go` prints."""
    return run_build([require_program("go"), *arguments], source, CGO_ENABLED="0", **environment)


if __name__ == "__main__":
    for program in (tailscaled, headscale):
        print(program())
