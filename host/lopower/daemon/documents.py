"""What the control API says about devices and the server: JSON-able dictionaries. Only configurations hold secrets."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict
from typing import Any

from lopower.daemon.diagnosis import Diagnosis
from lopower.daemon.requests import OutputFormat
from lopower.daemon.statistics import DeviceStatistics, EchoResult
from lopower.devices import configurations
from lopower.devices.device import Device, ServedPort
from lopower.devices.errors import ConfigurationUnavailable
from lopower.devices.keys import format_key
from lopower.devices.server_facts import ServerFacts


def device_summary(
    device: Device, statistics: DeviceStatistics, diagnosis: Diagnosis, outdated: bool
) -> dict[str, Any]:
    """One line of `device list`. Ages and times are seconds; null where there is nothing."""
    return {
        "name": device.name,
        "public_key": format_key(device.public_key),
        "ipv4": None if device.ipv4 is None else str(device.ipv4),
        "ipv6": None if device.ipv6 is None else str(device.ipv6),
        "enabled": device.enabled,
        "state": diagnosis.state,
        "summary": diagnosis.summary,
        "outdated": outdated,
        "endpoint": None if statistics.endpoint is None else str(statistics.endpoint),
        "latest_handshake": _rounded(statistics.latest_handshake),
        "last_packet": _rounded(statistics.last_packet),
        "rx_bytes": statistics.rx_bytes,
        "tx_bytes": statistics.tx_bytes,
        "rules": [str(rule) for rule in device.rules],
        "firmware": None if device.firmware is None else asdict(device.firmware),
    }


def device_details(
    device: Device, statistics: DeviceStatistics, diagnosis: Diagnosis, outdated: bool
) -> dict[str, Any]:
    """All of `device show`."""
    return {
        **device_summary(device, statistics, diagnosis, outdated),
        "findings": [finding._asdict() for finding in diagnosis.findings],
        "preshared_key": device.preshared_key is not None,
        "full_tunnel": device.full_tunnel,
        "mtu": device.mtu,
        "persistent_keepalive": device.persistent_keepalive,
        "created_at": device.created_at.isoformat(),
        "last_endpoint": None if device.last_endpoint is None else list(device.last_endpoint),
        "rx_packets": statistics.rx_packets,
        "tx_packets": statistics.tx_packets,
        "tcp_flows": statistics.tcp_flows,
        "udp_flows": statistics.udp_flows,
        "counters": dict(sorted(statistics.counters.items())),
        "refusals": [dict(refusal) for refusal in statistics.refusals],
    }


def served_port(entry: ServedPort) -> dict[str, Any]:
    """One line of `serve`."""
    address, port = entry.target
    host = f"[{address}]" if address.version == 6 else str(address)
    return {"protocol": entry.protocol, "port": entry.port, "target": f"{host}:{port}"}


def echo_result(result: EchoResult) -> dict[str, Any]:
    """One line of `ping`."""
    return asdict(result)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def configuration(
    device: Device, server: ServerFacts, form: OutputFormat, private_key: bytes | None, with_qr: bool
) -> dict[str, Any]:
    """A configuration as it is handed out: `text`, or `base64` of a picture; `qr` if asked for and possible; notes.

    Raises:
        ConfigurationUnavailable: it does not exist in this format.
    """
    document: dict[str, Any] = {"name": device.name, "format": form, "notes": []}
    if form == "qr" or form == "png":
        if private_key is None:
            raise ConfigurationUnavailable(
                f"a QR code of {device.name}'s configuration would lack its private key, which only the device has; "
                "use --format conf and put the key in"
            )
        if form == "qr":
            document["text"] = configurations.qr(device, server, private_key)
        else:
            document["base64"] = b64encode(configurations.png(device, server, private_key)).decode()
        return document
    document["text"] = configurations.render(device, server, form, private_key)
    if private_key is None:
        document["notes"].append("put the device's private key in; it is not known here")
    elif with_qr:
        try:
            document["qr"] = configurations.qr(device, server, private_key)
        except ConfigurationUnavailable as error:
            document["notes"].append(str(error))
    if form in configurations.FORMATS_WITHOUT_PRESHARED_KEY:
        document["notes"].append(f"{form} takes no preshared key, so {device.name} has none")
    return document
