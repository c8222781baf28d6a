"""The wheel, built as a user builds it, from the checkout and from the source distribution, and installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

import lopower
from hatch_build import PLACE, SETTING
from tests.support.requirements import require_program

ROOT = Path(__file__).parents[2]
# Where a file of the wheel comes from.
SOURCES = {
    "host/lopower": "lopower",
    "hil/lopower_hil": "lopower_hil",
    "provisioning/lopower_provisioning": "lopower_provisioning",
    "firmware": "lopower_provisioning/firmware",
    "hil/tailnet_world": "lopower_hil/tailnet_source",
}
# Programs that building needs; whatever else there is, Go is not among them.
WITHOUT_GO = ("sh", "env", "dirname")
NEEDED = (
    "lopower/py.typed",
    "lopower/cli/lopower.service",
    "lopower/devices/migrations/env.py",
    "lopower/devices/migrations/script.py.mako",
    "lopower/devices/migrations/versions/revision_0001.py",
    "lopower_hil/demo/__main__.py",
    "lopower_hil/bench/report.html",
    "lopower_provisioning/firmware/boot.py",
    "lopower_provisioning/firmware/tools/build.py",
    "lopower_provisioning/firmware/lopower_device/tunnel.py",
)

pytestmark = [pytest.mark.xdist_group("wheel"), pytest.mark.timeout(600)]  # Go may have to compile it all


@dataclass(frozen=True, slots=True)
class Built:
    """A wheel, and what its builder was told."""

    path: Path
    said: str


def run(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=500
    )


def build(command: list[str | Path], source: Path, target: Path, **environment: str) -> Built:
    """Run a builder in `source`; the wheel that is in `target` then."""
    done = run(*command, cwd=source, env={**os.environ, SETTING: "", **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = target.glob("*.whl")
    return Built(wheel, done.stdout + done.stderr)


def hatchling(target: Path) -> list[str | Path]:
    """What pip has do the work, by itself."""
    return [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target]


@pytest.fixture(scope="module")
def without_go(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("programs")
    for name in WITHOUT_GO:
        (directory / name).symlink_to(require_program(name))
    return str(directory)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Built:
    require_program("go")
    target = tmp_path_factory.mktemp("wheel")
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        target,
        ".",
    ]
    return build(pip, ROOT, target)


@pytest.fixture(scope="module")
def plain_wheel(tmp_path_factory: pytest.TempPathFactory, without_go: str) -> Built:
    target = tmp_path_factory.mktemp("plain")
    return build(hatchling(target), ROOT, target, PATH=without_go)


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    return next(path for path in directory.iterdir() if path.is_dir())


@dataclass(frozen=True, slots=True)
class Installed:
    """A virtual environment with a wheel in it; what lopower depends on it takes from this one."""

    directory: Path

    def lopower(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run(self.directory / "bin" / "lopower", *arguments, env=self.environment)

    def python(self, text: str) -> str:
        done = run(self.directory / "bin" / "python", "-c", text, env=self.environment, cwd=self.directory)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def environment(self) -> dict[str, str]:
        """One in which nothing of the checkout is found."""
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.directory)}


def install(wheel: Built, directory: Path) -> Installed:
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    done = run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-compile", "--no-index"),
        wheel.path,
    )
    assert done.returncode == 0, done.stderr
    packages = next(directory.glob("lib/python*/site-packages"))
    # A path in a .pth file comes last, and .pth files in there, such as the checkout's, do not count.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(directory)


@pytest.fixture(scope="module")
def installed(wheel: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(wheel, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def installed_plain(plain_wheel: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(plain_wheel, tmp_path_factory.mktemp("installed"))


def files_of_the_checkout() -> set[str]:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *SOURCES, cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    names = {"lopower_hil/tailnet_source/build.sh"}
    for line in listed.stdout.splitlines():
        source = next(source for source in SOURCES if line.startswith(f"{source}/"))
        if (ROOT / line).is_file():
            names.add(SOURCES[source] + line.removeprefix(source))
    return names


def names_in(wheel: Built) -> set[str]:
    with zipfile.ZipFile(wheel.path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_it_has_the_checkouts_files_and_the_sidecar_and_nothing_else(wheel: Built, plain_wheel: Built) -> None:
    expected = files_of_the_checkout()
    assert not [name for name in NEEDED if name not in expected]
    assert names_in(plain_wheel) == expected
    assert names_in(wheel) == expected | {PLACE}


def test_it_is_for_this_machine(wheel: Built) -> None:
    _, _, _, tags = parse_wheel_filename(wheel.path.name)
    assert tags & set(sys_tags())
    assert {tag.interpreter for tag in tags} == {"py3"}
    assert "any" not in {tag.platform for tag in tags}
    with zipfile.ZipFile(wheel.path) as archive:
        assert archive.getinfo(PLACE).external_attr >> 16 & 0o777 == 0o755
        assert "Root-Is-Purelib: false" in archive.read(f"lopower-{lopower.__version__}.dist-info/WHEEL").decode()
    assert "lopower: with the sidecar for linux/" in wheel.said


def test_the_source_distribution_makes_the_same_wheel(wheel: Built, source_distribution: Path, tmp_path: Path) -> None:
    """All that is needed is in there, and nothing of the builder's machine is in the wheel."""
    assert build(hatchling(tmp_path), source_distribution, tmp_path).path.read_bytes() == wheel.path.read_bytes()


def test_it_runs_where_it_is_installed(installed: Installed) -> None:
    found = installed.python("import lopower; print(lopower.__file__)")
    assert Path(found).is_relative_to(installed.directory)
    assert installed.lopower("--version").stdout.strip() == f"lopower {lopower.__version__}"
    sidecar = installed.python("from lopower.daemon.tailnet import sidecar_program; print(sidecar_program())")
    assert Path(sidecar).is_relative_to(installed.directory)
    said = json.loads(run(sidecar, "--version").stdout)
    assert said["version"] == lopower.__version__


def test_its_data_files_are_found(installed: Installed) -> None:
    unit = installed.lopower("service", "install", "--dry-run")
    assert "ExecStart=" in unit.stdout + unit.stderr
    boot = installed.python(
        "from lopower_provisioning.filesystem import firmware_directory as d; print((d() / 'boot.py').is_file(), d())"
    )
    assert boot.startswith(f"True {installed.directory}")
    heads = installed.python(
        "from alembic.config import Config\n"
        "from alembic.script import ScriptDirectory\n"
        "import lopower.devices\n"
        "from pathlib import Path\n"
        "config = Config()\n"
        "config.set_main_option('script_location', str(Path(lopower.devices.__file__).parent / 'migrations'))\n"
        "print(len(list(ScriptDirectory.from_config(config).walk_revisions())))"
    )
    assert int(heads) == len(list((ROOT / "host/lopower/devices/migrations/versions").glob("revision_*.py")))


def test_without_go_it_is_for_any_machine(plain_wheel: Built) -> None:
    assert plain_wheel.path.name == f"lopower-{lopower.__version__}-py3-none-any.whl"
    assert "without the sidecar, because Go is not installed" in plain_wheel.said


def test_without_the_sidecar_it_says_what_is_missing(installed_plain: Installed, tmp_path: Path) -> None:
    if shutil.which("lopower-sidecar", path=installed_plain.environment["PATH"]):
        pytest.fail("this machine has a lopower-sidecar of its own, which would be found")
    assert installed_plain.lopower("--version").stdout.strip() == f"lopower {lopower.__version__}"
    done = installed_plain.lopower("up", "--tailnet", "tsnet", "--state-dir", tmp_path / "state")
    assert done.returncode != 0
    assert "lopower-sidecar, which joins the tailnet, is not installed" in done.stderr
    assert "install Go" in done.stderr
    assert "--tailnet host" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_sidecar_the_demonstration_shows_the_host_driver(installed_plain: Installed) -> None:
    done = run(
        *(installed_plain.directory / "bin" / "python", "-m", "lopower_hil.demo"),
        cwd=installed_plain.directory,
        env=installed_plain.environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Without a tailnet: lopower-test-tailnet and lopower-sidecar are not there;" in done.stdout
    assert "This is the host driver" in done.stdout
    assert "--tailnet host" in done.stdout
    assert "all steps ended as they should" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_setting_that_names_no_machine(tmp_path: Path) -> None:
    done = run(*hatchling(tmp_path), cwd=ROOT, env={**os.environ, SETTING: "linux/arm/v6"})
    assert done.returncode == 1
    expected = f"lopower: {SETTING} is 'linux/arm/v6'; it can be linux/amd64, linux/arm64, linux/arm/v7 or none\n"
    assert done.stderr == expected
    assert not list(tmp_path.iterdir())


def test_an_editable_installation_compiles_nothing(tmp_path: Path) -> None:
    program = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    done = run(sys.executable, "-c", program, tmp_path, cwd=ROOT, env={**os.environ, SETTING: "not looked at"})
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*-py3-none-any.whl")
    assert PLACE not in zipfile.ZipFile(wheel).namelist()
