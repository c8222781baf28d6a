"""A real tailnet in network namespaces: its control server, a relay, `tailscaled` nodes with TUN devices, the daemon
with its sidecar, and wireguard-go as a device.

    host 198.51.100.1 (the daemon) ────────────────┐
    control 198.51.100.2 (control server, relay) ──┤ switch
    tailscaled nodes, devices: 198.51.100.3 and on ┘
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import tailnet_programs
from tests.support import wireguard_go as wg
from tests.support.lopower_daemon import LopowerDaemon
from tests.support.netns import Namespace, join, remove_orphans, wait_until
from tests.support.requirements import require_program, require_root

HOST, CONTROL = "198.51.100.1", "198.51.100.2"
DERP_PORT, STUN_PORT = 3340, 3478
_NODE_SECONDS = 20.0
# What programs look up in /etc; a node has a copy, since tailscaled writes its resolv.conf there.
_ETC = ("hosts", "nsswitch.conf", "passwd", "group", "protocols", "services", "ld.so.cache", "alternatives")
_ENVIRONMENT = {"TS_NO_LOGS_NO_SUPPORT": "true", "TS_DISABLE_PORTMAPPER": "1", "TS_PANIC_IF_HIT_MAIN_CONTROL": "1"}


class Machine:
    """A namespace with an /etc of its own, so that its names are resolved as it says."""

    def __init__(self, space: Namespace, name: str, directory: Path, resolver: str) -> None:
        self.space, self.name = space, name
        self._directory = directory
        self._etc = directory / "etc"
        self._etc.mkdir(parents=True)
        for entry in _ETC:
            path = Path("/etc", entry)
            if path.is_dir():
                shutil.copytree(path, self._etc / entry, symlinks=True)
            elif path.exists():
                shutil.copy(path, self._etc / entry)
        (self._etc / "resolv.conf").write_text(f"nameserver {resolver}\n")

    def command(self, *arguments: str | Path) -> list[str]:
        """What runs `arguments` on this machine."""
        script = 'mount --bind "$0" /etc && exec "$@"'
        private = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
        return self.space.command(*private, self._etc, *arguments)

    def run(self, *arguments: str | Path, check: bool = True, timeout: float = 60) -> str:
        """Run to its end; standard output."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=timeout
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{self.name}: {arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def curl(self, url: str, *options: str, check: bool = True, seconds: float = 10) -> str:
        """`curl`, by this machine's own resolver."""
        return self.run("curl", "-sS", "-g", "--max-time", f"{seconds:g}", *options, url, check=check)

    def dig(self, *arguments: str) -> list[str]:
        """The answers' data, from this machine's own resolver unless another is named."""
        return self.run("dig", "+short", "+timeout=5", "+tries=1", *arguments).splitlines()

    def client(self, *arguments: str | int, timeout: float = 120) -> str:
        """tests.support.tailnet_services as a client; what it printed."""
        return self.run(*_client(arguments), timeout=timeout).strip()

    def popen_client(self, *arguments: str | int) -> subprocess.Popen[str]:
        """The same, to be waited for by whoever started it."""
        return subprocess.Popen(self.command(*_client(arguments)), stdout=subprocess.PIPE, text=True)


class TailscaleNode(Machine):
    """`tailscaled` in a namespace of its own, with a TUN device.

    Attributes:
        addresses: in the tailnet, IPv4 first, once it is in.
    """

    def __init__(self, space: Namespace, name: str, directory: Path) -> None:
        super().__init__(space, name, directory, "192.0.2.99")  # until tailscaled writes itself there
        self.addresses: list[str] = []
        program = tailnet_programs.tailscaled()
        self._client = program.with_name("tailscale")
        self._log = (directory / "log").open("w")
        command = self.command(
            program, "--statedir", directory, "--socket", directory / "socket", "--tun", "tailscale0", "--port", "41641"
        )
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        wait_until((directory / "socket").exists, _NODE_SECONDS, f"{name}'s tailscaled listens")

    def tailscale(self, *arguments: str, timeout: float = 60) -> str:
        """`tailscale …`."""
        return self.run(self._client, f"--socket={self._directory / 'socket'}", *arguments, timeout=timeout)

    def join(self, control_url: str, *options: str) -> None:
        """Into the tailnet."""
        self.tailscale(
            "up", f"--login-server={control_url}", f"--hostname={self.name}", "--accept-routes", "--netfilter-mode=off",
            f"--timeout={_NODE_SECONDS:g}s", *options,
        )  # fmt: skip
        self.addresses = self.status()["TailscaleIPs"]

    def status(self) -> dict[str, Any]:
        """What it says of itself and the others."""
        document: dict[str, Any] = json.loads(self.tailscale("status", "--json"))
        return document

    def peers(self) -> dict[str, dict[str, Any]]:
        """What it knows of the others, by the first label of their names."""
        return {peer["DNSName"].partition(".")[0]: peer for peer in (self.status()["Peer"] or {}).values()}

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


class Program(NamedTuple):
    """One that runs, and the first line that it printed."""

    process: subprocess.Popen[str]
    first_line: str


class Network:
    """The namespaces, and the programs that were started in them.

    Attributes:
        stack: what is to be ended with it.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self._next = 1
        self._addresses: dict[str, str] = {}
        self._switch = self._space("switch")
        self._switch.ip("link", "add", "bridge", "type", "bridge")
        self._switch.ip("link", "set", "bridge", "up")
        self.host, self.control = self.machine("host"), self.machine("control")

    def machine(self, label: str) -> Namespace:
        """One more at the switch, with the next address, its link `net0`."""
        space = self._space(label)
        port = f"port{self._next}"
        join(space, self._switch, "net0", port)
        self._switch.ip("link", "set", port, "master", "bridge")
        self._addresses[space.name] = f"198.51.100.{self._next}"
        space.ip("address", "add", f"{self.address(space)}/24", "dev", "net0")
        space.ip("route", "add", "default", "via", CONTROL if self._next != 2 else HOST)  # leads nowhere
        self._next += 1
        return space

    def set_environment(self, name: str, value: str) -> None:
        """For all programs that are started from now on."""
        before = os.environ.get(name)

        def restore() -> None:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before

        self.stack.callback(restore)
        os.environ[name] = value

    def address(self, space: Namespace) -> str:
        """A machine's at the switch."""
        return self._addresses[space.name]

    def node(self, name: str) -> TailscaleNode:
        """A machine with tailscaled, not in any tailnet yet."""
        node = TailscaleNode(self.machine(name[:4]), name, self.directory / name)
        self.stack.callback(node.stop)
        return node

    def start(self, space: Namespace, *arguments: str | Path) -> Program:
        """A program that ends with this network, once it has printed its first line."""
        process = space.popen(*arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.stack.callback(end, process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{arguments} did not start"
        return Program(process, line)

    def iperf3(self, space: Namespace) -> None:
        """Its server in a namespace."""
        process = space.popen(require_program("iperf3"), "-s", stdout=subprocess.DEVNULL)
        self.stack.callback(end, process)
        space.wait_for_port(5201)

    def serve(self, space: Namespace, name: str) -> None:
        """tests.support.tailnet_services in a namespace."""
        self.start(space, sys.executable, "-m", "tests.support.tailnet_services", "serve", name)

    def relay(self) -> Program:
        """A DERP relay and a STUN server beside the control server; it says where, as the control server takes it."""
        ports = ("-derp-port", str(DERP_PORT), "-stun-port", str(STUN_PORT))
        return self.start(self.control, tailnet_programs.world(), "-part", "relay", "-address", CONTROL, *ports)

    def _space(self, label: str) -> Namespace:
        space = Namespace(label)
        self.stack.callback(space.delete)
        return space


class ControlServer:
    """The control server of hil/tailnet_world, in a namespace; operations.go lists what it can be asked."""

    def __init__(self, network: Network) -> None:
        self.relay = network.relay()
        self._process, line = network.start(
            network.control, tailnet_programs.world(), "-part", "control", "-peers", "", "-address", CONTROL,
            "-relay", self.relay.first_line,
        )  # fmt: skip
        hello = json.loads(line)
        self.url: str = hello["control_url"]
        self.domain: str = hello["domain"]
        self._number = 0

    def do(self, operation: str, **fields: Any) -> dict[str, Any]:
        """One operation, which must go well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        self._process.stdin.write(json.dumps({"id": self._number, "op": operation, **fields}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert answer["ok"], answer["error"]
        return answer


class Device(Machine):
    """wireguard-go in a namespace of its own, configured by `device add`, which serves."""

    def __init__(self, network: Network, daemon: LopowerDaemon, name: str, *options: str) -> None:
        server = daemon.json("server", "show")
        resolver = server["gateway_ipv4"] or server["gateway_ipv6"]
        super().__init__(network.machine(name[:4]), name, network.directory / name, resolver)
        self.wireguard = network.stack.enter_context(wg.wireguard_go(self.space))
        self.wireguard.configure(daemon.lopower("device", "add", name, *options))
        network.serve(self.space, name)

    def reach(self, network: str) -> None:
        """Send what is for a network into the tunnel, although the configuration has it not."""
        [peer] = self.wireguard.wg("show", wg.LINK, "peers").split()
        allowed = self.wireguard.wg("show", wg.LINK, "allowed-ips").split()[1:]
        self.wireguard.wg("set", wg.LINK, "peer", peer, "allowed-ips", ",".join([*allowed, network]))
        self.space.ip("route", "replace", network, "dev", wg.LINK)


def _client(arguments: Sequence[str | int]) -> list[str]:
    return [sys.executable, "-m", "tests.support.tailnet_services", *map(str, arguments)]


def end(process: subprocess.Popen[str]) -> None:
    """End a program, whatever it does."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextmanager
def network() -> Iterator[Network]:
    """The namespaces; skips the tests by name where they cannot be had."""
    require_root()
    for program in ("ip", "curl", "dig", "wg"):
        require_program(program)
    remove_orphans()
    # A short name: unix sockets have 107 bytes.
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="lpn-") as directory:
        made = Network(Path(directory), stack.enter_context(ExitStack()))
        for name, value in _ENVIRONMENT.items():
            made.set_environment(name, value)
        yield made


class RealTailnet:
    """The whole: a control server with its relay, `phone` and `laptop`, and the daemon, in the tailnet.

    Args:
        flags: of the daemon.
    """

    def __init__(self, space: Network, *flags: str) -> None:
        self.network = space
        self.control = ControlServer(space)
        self.phone, self.laptop = space.node("phone"), space.node("laptop")
        for node in (self.phone, self.laptop):
            node.join(self.control.url)
            space.serve(node.space, node.name)
        self.daemon = daemon_in(space, "lopower", "--control-url", self.control.url, *flags)
        joined(self.daemon)


def daemon_in(space: Network, name: str, *flags: str, port: int = 51820) -> LopowerDaemon:
    """A daemon with a node of its own, started, in the host's namespace."""
    directory = space.directory / name
    directory.mkdir()
    (directory / "resolv.conf").write_text(f"nameserver {CONTROL}\n")
    listen = ("--listen", f":{port}", "--resolv-conf", str(directory / "resolv.conf"))
    daemon = LopowerDaemon(space.host, directory, "--tailnet", "tsnet", *listen, *flags, endpoint=f"{HOST}:{port}")
    space.stack.callback(daemon.stop)
    daemon.start()
    return daemon


def tailnet_of(daemon: LopowerDaemon) -> dict[str, Any]:
    """What `lopower status` says of the tailnet."""
    document: dict[str, Any] = daemon.json("status")["data_plane"]["tailnet"]
    return document


def joined(daemon: LopowerDaemon, peers: int = 2) -> None:
    """Its node is in, and knows so many peers."""

    def is_in() -> bool:
        tailnet = tailnet_of(daemon)
        return bool(tailnet["connected"]) and tailnet["node"]["peers"] >= peers

    wait_until(is_in, 30, f"the daemon is in the tailnet: {tailnet_of(daemon)}")
