"""headscale in a namespace: a control server that we did not write, with real ACLs.

It serves https: a client that lost its connection to a control server tries port 443 alone for two minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.support import tailnet_programs
from tests.support.dns_certificates import make_certificates
from tests.support.netns import wait_until
from tests.support.tailnet_namespaces import CONTROL, Network, end

URL: Final = f"https://{CONTROL}"
DOMAIN: Final = "headscale.test"
_CONFIGURATION: Final = """
server_url: {url}
listen_addr: {address}:443
tls_cert_path: {directory}/server.pem
tls_key_path: {directory}/server.pem
metrics_listen_addr: 127.0.0.1:9090
grpc_listen_addr: 127.0.0.1:50443
noise: {{private_key_path: {directory}/noise.key}}
prefixes: {{v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}}
derp: {{server: {{enabled: false}}, urls: [], paths: ["{directory}/relays.yaml"], auto_update_enabled: false}}
disable_check_updates: true
database: {{type: sqlite, sqlite: {{path: "{directory}/headscale.db", write_ahead_log: true}}}}
policy: {{mode: file, path: "{directory}/policy.json"}}
dns:
  magic_dns: true
  base_domain: {domain}
  override_local_dns: false
  nameservers: {{global: [], split: {{}}}}
  search_domains: []
  extra_records: []
unix_socket: {directory}/socket
unix_socket_permission: "0700"
log: {{level: info, format: text}}
"""
_RELAYS: Final = """
regions:
  1:
    regionid: 1
    regioncode: test
    regionname: test
    nodes:
      - {{name: t1, regionid: 1, hostname: {address}, ipv4: {address}, ipv6: none, stuntestip: {address},
          stunport: {stun}, derpport: {derp}, insecurefortests: true}}
"""


class Headscale:
    """It, and its relay. `kill` and `start` may be repeated: what it knows is in its database.

    Args:
        policy: the tailnet's ACLs.
    """

    def __init__(self, network: Network, policy: dict[str, Any]) -> None:
        self._network = network
        self._program = tailnet_programs.headscale()
        self._directory = network.directory / "headscale"
        self._directory.mkdir()
        authority, _ = make_certificates(self._directory, (CONTROL,))
        network.set_environment("SSL_CERT_FILE", str(authority))
        (self._directory / "config.yaml").write_text(
            _CONFIGURATION.format(url=URL, address=CONTROL, directory=self._directory, domain=DOMAIN)
        )
        (self._directory / "policy.json").write_text(json.dumps(policy))
        self.relay = network.relay()
        where = json.loads(self.relay.first_line)
        (self._directory / "relays.yaml").write_text(
            _RELAYS.format(address=CONTROL, stun=where["stun_port"], derp=where["derp_port"])
        )
        self.start()
        self.user: int = self.ask("users", "create", "ada")["id"]

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self._directory / "log").open("a") as log:
            self.process = self._network.control.popen(
                self._program, "serve", "--config", self._directory / "config.yaml", stdout=log, stderr=log
            )
        self._network.stack.callback(end, self.process)
        wait_until(
            lambda: self.process.poll() is not None or self._run("health").returncode == 0, 30, "headscale answers"
        )
        assert self.process.poll() is None, (self._directory / "log").read_text()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def key(self, *tags: str) -> str:
        """A reusable key, for nodes with these tags."""
        words = ["preauthkeys", "create", "--reusable", "--user", str(self.user)]
        key: str = self.ask(*words, *(["--tags", ",".join(tags)] if tags else []))["key"]
        return key

    def key_file(self, name: str, *tags: str) -> Path:
        """The same, in a file."""
        file = self._directory / name
        file.write_text(self.key(*tags) + "\n")
        return file

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What it knows of the nodes, by the names it gave them."""
        return {node["given_name"]: node for node in self.ask("nodes", "list")}

    def ask(self, *arguments: str) -> Any:
        """`headscale … -o json`."""
        done = self._run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [
            self._program,
            *arguments,
            "--config",
            self._directory / "config.yaml",
            "-o",
            "json",
            "--force",
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=30, env={**os.environ, "NO_COLOR": "1"}
        )
