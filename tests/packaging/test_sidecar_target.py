"""For which machine a wheel carries the sidecar, and what the wheel is called."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

import pytest
from packaging.tags import parse_tag, sys_tags

from hatch_build import SETTING, TARGETS, SidecarTargetError, build, choose, go_version, native_target
from tests.support.requirements import missing, require_program

BUILD_SCRIPT = Path(__file__).parents[2] / "host" / "sidecar" / "build.sh"
GO = "go1.26.6"
ELF_MACHINES = {"linux/amd64": (64, 62), "linux/arm64": (64, 183), "linux/arm/v7": (32, 40)}
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3


@pytest.mark.parametrize(
    ("system", "machine", "bits", "target"),
    [
        ("linux", "x86_64", 64, "linux/amd64"),
        ("linux", "aarch64", 64, "linux/arm64"),
        ("linux", "armv7l", 32, "linux/arm/v7"),
        # Raspberry Pi OS of 32 bits under its kernel of 64 bits.
        ("linux", "aarch64", 32, "linux/arm/v7"),
        ("linux", "armv8l", 32, "linux/arm/v7"),
        # The first Raspberry Pi and the Zero; 32-bit systems on a PC; other systems.
        ("linux", "armv6l", 32, None),
        ("linux", "x86_64", 32, None),
        ("linux", "riscv64", 64, None),
        ("darwin", "arm64", 64, None),
    ],
)
def test_this_machine(system: str, machine: str, bits: int, target: str | None) -> None:
    assert native_target(system, machine, bits) == target


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.6", (1, 26)), ("go1.19.8", (1, 19)), ("go1.27rc1", (1, 27)), ("devel +abc", None), ("", None)],
)
def test_versions_of_go(text: str, version: tuple[int, int] | None) -> None:
    assert go_version(text) == version


@pytest.mark.parametrize("native", [*TARGETS, None])
def test_the_setting_goes_before_the_machine(native: str | None) -> None:
    for name, target in TARGETS.items():
        chosen, line = choose(name, native, GO)
        assert chosen is target
        assert name in line
    assert choose("none", native, GO)[0] is None


def test_without_the_setting_it_is_for_this_machine() -> None:
    assert choose("", "linux/arm64", GO)[0] is TARGETS["linux/arm64"]


@pytest.mark.parametrize(
    ("native", "go", "said"),
    [
        ("linux/amd64", None, "Go is not installed"),
        ("linux/amd64", "go1.19.8", "Go is too old (go1.19.8)"),
        ("linux/amd64", "go: cannot find GOROOT", "Go is too old"),
        (None, GO, "it is built for linux/amd64, linux/arm64, linux/arm/v7 alone"),
    ],
)
def test_what_is_missing_is_said(native: str | None, go: str | None, said: str) -> None:
    target, line = choose("", native, go)
    assert target is None
    assert said in line
    assert "everything but `--tailnet tsnet` works" in line
    assert ("https://go.dev/dl/" in line) == (native is not None)


@pytest.mark.parametrize(
    ("setting", "go", "said"),
    [
        ("linux/arm/v6", GO, "it can be linux/amd64, linux/arm64, linux/arm/v7 or none"),
        ("LINUX/AMD64", GO, "it can be"),
        ("linux/arm64", None, "Go is not installed"),
        ("linux/arm64", "go1.20", "Go is too old (go1.20)"),
    ],
)
def test_a_setting_that_cannot_be_followed(setting: str, go: str | None, said: str) -> None:
    with pytest.raises(SidecarTargetError, match=SETTING) as raised:
        choose(setting, "linux/amd64", go)
    assert said in str(raised.value)


def test_the_tag_is_one_that_this_machine_takes() -> None:
    native = native_target("linux", platform.machine(), struct.calcsize("P") * 8)
    if native is None:
        missing("a machine that the sidecar is built for")
    accepted = set(sys_tags())
    assert parse_tag(TARGETS[native].tag) & accepted
    for name, target in TARGETS.items():
        if name != native:
            assert not parse_tag(target.tag) & accepted


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_built_is_static_and_for_its_machine(name: str, tmp_path: Path) -> None:
    """With the sidecar's own script and flags, of a program that is compiled sooner."""
    require_program("go")
    script = tmp_path / "build.sh"
    script.write_bytes(BUILD_SCRIPT.read_bytes())
    (tmp_path / "go.mod").write_text("module small\n\ngo 1.21\n")
    (tmp_path / "main.go").write_text('package main\n\nfunc main() { println("small") }\n')
    programs = [tmp_path / "first" / "small", tmp_path / "second" / "small"]
    for program in programs:
        build(script, TARGETS[name], program)
    content = programs[0].read_bytes()
    assert content == programs[1].read_bytes()
    assert bytes(tmp_path) not in content
    bits, machine, segments = read_elf(content)
    assert (bits, machine) == ELF_MACHINES[name]
    assert PT_LOAD in segments
    assert not {PT_DYNAMIC, PT_INTERP} & set(segments)


def test_what_does_not_compile_is_said(tmp_path: Path) -> None:
    require_program("go")
    script = tmp_path / "build.sh"
    script.write_bytes(BUILD_SCRIPT.read_bytes())
    (tmp_path / "go.mod").write_text("module small\n\ngo 1.21\n")
    (tmp_path / "main.go").write_text("package main\n\nfunc main() { nothing() }\n")
    with pytest.raises(SidecarTargetError, match="undefined: nothing") as raised:
        build(script, TARGETS["linux/amd64"], tmp_path / "small")
    assert f"{SETTING}=none" in str(raised.value)


def read_elf(content: bytes) -> tuple[int, int, list[int]]:
    """Word size, machine and types of the segments of an ELF file (System V ABI, chapters 4 and 5)."""
    assert content[:4] == b"\x7fELF"
    wide = content[4] == 2
    machine = struct.unpack_from("<H", content, 18)[0]
    offset = struct.unpack_from("<Q" if wide else "<I", content, 32 if wide else 28)[0]
    size, count = struct.unpack_from("<HH", content, 54 if wide else 42)
    segments = [struct.unpack_from("<I", content, offset + size * number)[0] for number in range(count)]
    return 64 if wide else 32, machine, segments
