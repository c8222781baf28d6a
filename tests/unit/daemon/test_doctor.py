"""Each check of the doctor, against hosts that have what it looks for."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest

from lopower.daemon import doctor
from lopower.daemon.doctor import Facts, Host
from lopower.daemon.settings import Settings
from lopower.daemon.settings_sources import resolve
from lopower.tailnet.routes import HostSnapshot


class ChosenHost(Host):
    """A host with a root directory and addresses of a test's choice."""

    def __init__(self, root: Path, snapshot: HostSnapshot | None = None) -> None:
        super().__init__(root)
        self._snapshot = snapshot or HostSnapshot(frozenset(), (), frozenset(), frozenset())

    def snapshot(self) -> HostSnapshot:
        return self._snapshot

    def put(self, path: str, text: str) -> None:
        file = self._root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def settings(tmp_path: Path, **flags: object) -> Settings:
    return resolve(flags=flags, environ={"HOME": str(tmp_path)}, is_root=False)


def test_all_checks_run_on_this_host_and_none_raises(tmp_path: Path) -> None:
    checks = doctor.run(settings(tmp_path), Facts())
    assert len({check.name for check in checks}) == len(checks) == 11
    assert all(check.advice for check in checks if check.verdict != "ok")


def test_state_directory(tmp_path: Path) -> None:
    private, open_one, file = tmp_path / "private", tmp_path / "open", tmp_path / "file"
    private.mkdir(mode=0o700)
    open_one.mkdir()
    open_one.chmod(0o755)
    file.touch()
    assert doctor.check_state_directory(private).verdict == "ok"
    assert doctor.check_state_directory(tmp_path / "a/b/c").verdict == "ok"
    assert doctor.check_state_directory(open_one).advice == f"chmod 700 {open_one}"
    assert doctor.check_state_directory(file).verdict == "failure"


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for listen in (f"127.0.0.1:{port}", f":{port}"):
            check = doctor.check_port(settings(tmp_path, listen=listen), Facts())
            assert check.verdict == "failure"
            assert f"ss -ulpn sport = :{port}" in check.advice
        assert doctor.check_port(settings(tmp_path, listen=f":{port}"), Facts(running=True, port=port)).verdict == "ok"
    assert doctor.check_port(settings(tmp_path, listen=f"127.0.0.1:{port}"), Facts()).verdict == "ok"
    assert doctor.check_port(settings(tmp_path, listen="192.0.2.1:1"), Facts()).verdict == "failure"


def test_ranges_that_overlap_the_lan(tmp_path: Path) -> None:
    lan = HostSnapshot(frozenset(), (IPv4Network("10.90.0.0/16"),), frozenset(), frozenset())
    ours = (IPv4Network("10.90.0.0/24"), IPv6Network("fd00::/64"))
    check = doctor.check_ranges(ours, ChosenHost(tmp_path, lan))
    assert (check.verdict, "--ipv4" in check.advice) == ("failure", True)
    assert doctor.check_ranges(ours[1:], ChosenHost(tmp_path, lan)).verdict == "ok"


def test_ipv6(tmp_path: Path) -> None:
    host = ChosenHost(tmp_path)
    assert doctor.check_ipv6(host).verdict == "warning"
    host.put("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n")
    assert doctor.check_ipv6(host).verdict == "ok"


def test_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    host = ChosenHost(tmp_path)
    assert doctor.check_buffers(host).verdict == "ok"
    for kind in ("r", "w"):
        host.put(f"/proc/sys/net/core/{kind}mem_max", "212992\n")
    check = doctor.check_buffers(host)
    assert (check.verdict, "net.core.rmem_max=" in check.advice) == ("warning", True)


def test_offloads_left_off(tmp_path: Path) -> None:
    assert "GSO" in doctor.check_offloads(settings(tmp_path, without=["gso"])).text


def test_sidecar(tmp_path: Path) -> None:
    program = tmp_path / "lopower-sidecar"
    program.touch()
    assert doctor.check_sidecar(None).verdict == "failure"
    assert doctor.check_sidecar(program).advice == f"chmod 755 {program}" or os.geteuid() == 0
    program.chmod(0o755)
    assert doctor.check_sidecar(program).verdict == "ok"


def test_tailnet(tmp_path: Path) -> None:
    member = HostSnapshot(frozenset(), (), frozenset({ip_address("100.64.0.7")}), frozenset())
    assert "100.64.0.7" in doctor.check_tailnet(ChosenHost(tmp_path, member)).text
    assert doctor.check_tailnet(ChosenHost(tmp_path)).verdict == "warning"


def test_an_endpoint_that_cannot_be_resolved(tmp_path: Path) -> None:
    check = doctor.check_endpoint(settings(tmp_path, endpoint=["no-such-host.invalid"]), Facts())
    assert (check.verdict, "cannot be resolved" in check.text) == ("warning", True)


@pytest.mark.parametrize(
    ("ports", "reuse", "sources", "verdict", "seen"),
    [
        ("32768\t60999", "2", [], "ok", "28232 connections a minute"),
        ("32768\t60999", "0", [], "warning", "28232 connections a minute"),
        ("60000\t60999", "2", [], "warning", "1000 connections a minute"),
        ("60000\t60999", "1", [], "ok", "1000 connections from"),
        ("50000\t60999", "2", ["192.0.2.1", "192.0.2.2", "2001:db8::1"], "ok", "22000 connections a minute"),
        (None, None, [], "ok", "no range"),
    ],
)
def test_local_ports(
    tmp_path: Path, ports: str | None, reuse: str | None, sources: list[str], verdict: str, seen: str
) -> None:
    host = ChosenHost(tmp_path)
    for path, text in (("ip_local_port_range", ports), ("tcp_tw_reuse", reuse)):
        if text is not None:
            host.put(f"/proc/sys/net/ipv4/{path}", text)
    check = doctor.check_local_ports(settings(tmp_path, source_address=sources), host)
    assert check.verdict == verdict
    assert seen in check.text
    assert ("tcp_tw_reuse=1" in check.advice) == (verdict == "warning")
