"""Devices, as text for people."""

from __future__ import annotations

from typing import Any

from lopower.cli import output


def listing(document: dict[str, Any]) -> str:
    """`device list`."""
    devices = document["devices"]
    if not devices:
        return "no devices; add one with: lopower device add NAME"
    rows = [
        (
            entry["name"],
            entry["ipv4"] or "-",
            entry["ipv6"] or "-",
            entry["state"],
            output.ago(entry["latest_handshake"]),
            output.size(entry["rx_bytes"]),
            output.size(entry["tx_bytes"]),
            _package(entry["firmware"]),
            "outdated" if entry["outdated"] else "",
        )
        for entry in devices
    ]
    text = output.table(("NAME", "IPV4", "IPV6", "STATE", "HANDSHAKE", "FROM", "TO", "FIRMWARE", "CONFIGURATION"), rows)
    if any(entry["outdated"] for entry in devices):
        text += "\noutdated: the device needs a new configuration, see `lopower device config NAME`"
    return text


def details(document: dict[str, Any]) -> str:
    """`device show`."""
    keepalive = document["persistent_keepalive"]
    traffic = (
        f"{output.size(document['rx_bytes'])} in {document['rx_packets']} packets from it, "
        f"{output.size(document['tx_bytes'])} in {document['tx_packets']} to it"
    )
    items = [
        ("device", document["name"] + ("" if document["enabled"] else " (disabled)")),
        ("public key", document["public_key"]),
        ("addresses", ", ".join(text for text in (document["ipv4"], document["ipv6"]) if text)),
        *_in_the_tailnet(document),
        ("endpoint", document["endpoint"] or _last_seen(document) or "unknown"),
        ("handshake", output.ago(document["latest_handshake"])),
        ("traffic", traffic),
        ("flows", f"{document['tcp_flows']} TCP, {document['udp_flows']} UDP"),
        ("rules", "; ".join(document["rules"]) or "none of its own"),
        ("preshared key", "yes" if document["preshared_key"] else "no"),
        ("keepalive", f"every {keepalive} s" if keepalive else "none"),
        ("full tunnel", "yes" if document["full_tunnel"] else "no"),
        ("added", document["created_at"]),
        *_firmware(document["firmware"]),
    ]
    lines = [output.pairs(items), "", document["summary"]]
    for finding in document["findings"]:
        lines += [f"- {finding['text']}", f"  {finding['advice']}"]
    if document["outdated"]:
        lines.append(f"- its configuration is outdated\n  lopower device config {document['name']}")
    if document["refusals"]:
        lines += ["", "lately refused:"]
        for refusal in document["refusals"]:
            where = _destination(refusal)
            lines.append(
                f"- {where}, {_times(refusal['count'])}, last {output.ago(refusal['age'])}: {refusal['message']}"
            )
    if document["counters"]:
        counters = ", ".join(f"{name} {count}" for name, count in document["counters"].items())
        lines += ["", f"counters: {counters}"]
    return "\n".join(lines)


def _package(firmware: dict[str, Any] | None) -> str:
    """The package's version, and MicroPython's."""
    if firmware is None:
        return "-"
    image = firmware["image"].partition(";")[0].removeprefix("MicroPython ").partition(" ")[0]
    return f"{firmware['package'] or 'unknown'} on {image}" + (" (went back)" if firmware["gave_up"] else "")


def _firmware(firmware: dict[str, Any] | None) -> list[tuple[str, str]]:
    if firmware is None:
        return []
    console = "reached by `lopower repl`" if firmware["repl"] else "at the cable alone"
    return [
        ("firmware", f"{firmware['package'] or 'unknown'}, set {firmware['set']}, for {firmware['arch']}"),
        ("image", firmware["image"]),
        ("last start", firmware["reset"] or "unknown"),
        ("console", console),
    ]


def log(entries: list[dict[str, Any]]) -> str:
    """`device logs`."""
    lines = []
    for entry in entries:
        first, *rest = entry["text"].splitlines() or [""]
        lines.append(f"{entry['time'] or 'clock not set'}  {first}")
        lines += [f"    {line}" for line in rest]
    return "\n".join(lines) or "the log is empty"


def _in_the_tailnet(document: dict[str, Any]) -> list[tuple[str, str]]:
    via, name = document["via"], document["tailnet_name"]
    texts = [*([via["name"], via["address"]] if via else []), *([name] if name else [])]
    return [("in the tailnet", ", ".join(texts))] if texts else []


def _destination(refusal: dict[str, Any]) -> str:
    host = refusal["destination"]
    if refusal["port"] is None:
        return f"{refusal['protocol']} {host}"
    return f"{refusal['protocol']} {f'[{host}]' if ':' in host else host}:{refusal['port']}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _last_seen(document: dict[str, Any]) -> str:
    endpoint = document["last_endpoint"]
    return "" if endpoint is None else f"{endpoint[0]} port {endpoint[1]}, before the daemon started"
