"""Rows of the registry's tables, to and from what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from lopower.devices import schema
from lopower.devices.addresses import IPAddress, Ranges
from lopower.devices.advertising import Advertisement, Zone
from lopower.devices.device import Device, NewDevice, ServedPort
from lopower.devices.exposures import Exposure, parse_sources
from lopower.devices.firmware import parse as parse_firmware
from lopower.devices.policy import Rule

# Keys of the table `state`.
_IPV4: Final = "ipv4_range"
_IPV6: Final = "ipv6_range"
_RANDOM: Final = "ipv6_range_is_random"
_ADVERTISED: Final = "advertised"
_ZONE: Final = "advertised_zone"
_RESERVED: Final = "timestamps_reserved_until"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a database holds; see `Registry`.

    Attributes:
        ranges: None in a new one.
    """

    devices: list[Device]
    served_ports: list[ServedPort]
    exposures: list[Exposure]
    ranges: Ranges | None
    random_ipv6: bool
    advertisement: Advertisement | None
    zone: Zone | None
    timestamps_reserved_until: int


def load(connection: Connection) -> Stored:
    """Read all but the retired addresses."""
    names = {row.id: row.name for row in connection.execute(select(schema.devices.c.id, schema.devices.c.name))}
    rules: dict[int, list[Rule]] = {}
    for row in connection.execute(select(schema.rules).order_by(schema.rules.c.device_id, schema.rules.c.position)):
        rule = Rule.parse(row.rule)
        if row.target_id is not None:
            rule = replace(rule, device=names[row.target_id])
        rules.setdefault(row.device_id, []).append(rule)
    state = {row.key: row.value for row in connection.execute(select(schema.state))}
    ranges = None
    if _IPV6 in state:
        ipv4 = state[_IPV4]
        ranges = Ranges(ipv4=IPv4Network(ipv4) if ipv4 else None, ipv6=IPv6Network(state[_IPV6]))
    return Stored(
        devices=[_device_from(row, tuple(rules.get(row.id, ()))) for row in connection.execute(select(schema.devices))],
        served_ports=[
            ServedPort(protocol=row.protocol, port=row.port, target=(ip_address(row.target_host), row.target_port))
            for row in connection.execute(select(schema.served_ports))
        ],
        exposures=[_exposure_from(row) for row in connection.execute(select(schema.exposures))],
        ranges=ranges,
        random_ipv6=state.get(_RANDOM) == "1",
        advertisement=Advertisement.parse(state[_ADVERTISED]) if state.get(_ADVERTISED) else None,
        zone=Zone(state[_ZONE]) if state.get(_ZONE) else None,
        timestamps_reserved_until=int(state.get(_RESERVED, 0)),
    )


def _device_from(row: Any, rules: tuple[Rule, ...]) -> Device:
    return Device(
        id=row.id,
        name=row.name,
        public_key=row.public_key,
        preshared_key=row.preshared_key,
        ipv4=IPv4Address(row.ipv4) if row.ipv4 is not None else None,
        ipv6=IPv6Address(row.ipv6) if row.ipv6 is not None else None,
        enabled=row.enabled,
        rules=rules,
        full_tunnel=row.full_tunnel,
        mtu=row.mtu,
        persistent_keepalive=row.persistent_keepalive,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        last_timestamp=row.last_timestamp,
        last_endpoint=(row.last_host, row.last_port) if row.last_host is not None else None,
        configuration_digest=row.configuration_digest,
        firmware=None if row.firmware is None else parse_firmware(row.firmware),
    )


def _exposure_from(row: Any) -> Exposure:
    return Exposure(
        device_id=row.device_id,
        kind=row.kind,
        transport=row.transport,
        port=row.port,
        target_port=row.target_port,
        hostname=row.hostname,
        tags=tuple(row.tags.split()),
        sources=parse_sources(row.sources.split()),
    )


def store_exposure(connection: Connection, exposure: Exposure) -> None:
    """Keep an exposure, in place of what stood there."""
    values = {
        "device_id": exposure.device_id,
        "kind": exposure.kind,
        "transport": exposure.transport,
        "port": exposure.port,
        "target_port": exposure.target_port,
        "hostname": exposure.hostname,
        "tags": " ".join(exposure.tags),
        "sources": " ".join(map(str, exposure.sources)),
    }
    connection.execute(
        upsert(schema.exposures)
        .values(place=exposure.place, **values)
        .on_conflict_do_update(index_elements=["place"], set_=values)
    )


def insert_devices(
    connection: Connection,
    new: Sequence[NewDevice],
    names: Sequence[str],
    addresses: Sequence[tuple[IPv4Address | None, IPv6Address]],
    known: Mapping[str, Device],
    created_at: int,
) -> list[Device]:
    """Insert devices and their rules.

    Args:
        new: the devices; `names` in canonical form and `addresses` go with them.
        known: the devices there were before, by name.
        created_at: Unix time, seconds.
    """
    values = [
        {
            "name": name,
            "public_key": device.public_key,
            "preshared_key": device.preshared_key,
            "ipv4": str(ipv4) if ipv4 is not None else None,
            "ipv6": str(ipv6),
            "enabled": True,
            "full_tunnel": device.full_tunnel,
            "mtu": device.mtu,
            "persistent_keepalive": device.persistent_keepalive,
            "created_at": created_at,
        }
        for device, name, (ipv4, ipv6) in zip(new, names, addresses, strict=True)
    ]
    if not values:
        return []
    table = schema.devices
    greatest = connection.execute(select(func.max(table.c.id))).scalar() or 0
    connection.execute(insert(table), values)
    added = {row.name: row for row in connection.execute(select(table).where(table.c.id > greatest))}
    insert_rules(
        connection,
        [(added[name].id, device.rules) for name, device in zip(names, new, strict=True)],
        lambda name: added[name].id if name in added else known[name].id,
    )
    retired = schema.retired_addresses
    connection.execute(
        delete(retired).where(retired.c.address == bindparam("gone")),
        [{"gone": row[family]} for row in values for family in ("ipv4", "ipv6") if row[family] is not None],
    )
    return [_device_from(added[name], tuple(device.rules)) for name, device in zip(names, new, strict=True)]


def insert_rules(
    connection: Connection, rules: Iterable[tuple[int, Sequence[Rule]]], id_of: Callable[[str], int]
) -> None:
    """Insert the rules of devices, given by their ids; `id_of` knows the ids by name."""
    rows = [
        {
            "device_id": device_id,
            "position": position,
            "rule": str(rule),
            "target_id": id_of(rule.device) if rule.device is not None else None,
        }
        for device_id, of_device in rules
        for position, rule in enumerate(of_device)
    ]
    if rows:
        connection.execute(insert(schema.rules), rows)


def retired_addresses(connection: Connection) -> list[tuple[IPAddress, int]]:
    """Addresses of removed devices, and since when (Unix time, seconds)."""
    return [(ip_address(row.address), row.retired_at) for row in connection.execute(select(schema.retired_addresses))]


def forget_retired(connection: Connection, until: int) -> None:
    """Forget addresses that were retired at `until` (Unix time, seconds) or before."""
    connection.execute(delete(schema.retired_addresses).where(schema.retired_addresses.c.retired_at <= until))


def store_ranges(connection: Connection, ranges: Ranges, random_ipv6: bool) -> None:
    """Keep the ranges."""
    ipv4 = str(ranges.ipv4) if ranges.ipv4 is not None else ""
    _store_state(connection, {_IPV4: ipv4, _IPV6: str(ranges.ipv6), _RANDOM: "1" if random_ipv6 else "0"})


def store_timestamps_reserved_until(connection: Connection, until: int) -> None:
    """Keep the end of the reserved range, nanoseconds since 1970."""
    _store_state(connection, {_RESERVED: str(until)})


def store_advertisement(connection: Connection, advertisement: Advertisement | None) -> None:
    """Keep how the ranges are advertised."""
    _store_state(connection, {_ADVERTISED: "" if advertisement is None else str(advertisement)})


def store_zone(connection: Connection, zone: Zone | None) -> None:
    """Keep the domain of the devices' names in the tailnet."""
    _store_state(connection, {_ZONE: "" if zone is None else zone.name})


def _store_state(connection: Connection, values: Mapping[str, str]) -> None:
    statement = upsert(schema.state)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value}),
        [{"key": key, "value": value} for key, value in values.items()],
    )
