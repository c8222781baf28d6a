"""The devices, kept in a database and in memory: reading costs no I/O, and each change is one durable transaction."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import Connection, bindparam, delete, insert, update
from sqlalchemy.engine import Engine

from lopower.devices import rows, schema
from lopower.devices.addresses import (
    RETIREMENT,
    AddressPool,
    IPAddress,
    Ranges,
    check_range,
    draw_ipv6,
    holds,
)
from lopower.devices.allocation import Allocation
from lopower.devices.database import open_database, transaction
from lopower.devices.device import Device, NewDevice
from lopower.devices.errors import (
    DeviceNotFound,
    DevicesStranded,
    InvalidAddress,
    InvalidDevice,
    InvalidKey,
    InvalidRule,
    KeyTaken,
    NameTaken,
)
from lopower.devices.firmware import Firmware
from lopower.devices.keys import KEY_LENGTH
from lopower.devices.names import parse_name
from lopower.devices.offers import Offers
from lopower.devices.policy import MAX_RULES_PER_DEVICE, Rule

MIN_MTU: Final = 1280  # every device has IPv6: RFC 8200 section 5
MAX_MTU: Final = 65535
MAX_KEEPALIVE: Final = 65535
_TIMESTAMP_LENGTH: Final = 12
_Value = TypeVar("_Value")


class Registry(Offers):
    """All devices. Safe to use from several threads; readers never wait for a writer's disk.

    Every error raised here is a `RegistryError`. A change that raises has changed nothing.
    """

    def __init__(
        self,
        engine: Engine,
        path: Path,
        *,
        server_public_key: bytes,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """See `open`."""
        super().__init__()
        self.path = path
        self._engine = engine
        self._server_public_key = server_public_key
        self._clock = clock
        self._entropy = entropy
        # Replaced or changed one entry at a time, after the commit; readers take what is there.
        self._by_name: dict[str, Device] = {}
        self._by_key: dict[bytes, Device] = {}
        self._ranges = Ranges()
        self._random_ipv6 = False
        self._timestamps_reserved_until = 0
        self._pool4: AddressPool[IPv4Address] | None = None
        self._pool6: AddressPool[IPv6Address]
        with self._transaction() as connection:
            self._load(connection)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        server_public_key: bytes,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> Registry:
        """Open the registry in a database file, which is made (0600) if there is none.

        Args:
            path: the file; its directory exists.
            server_public_key: no device may have it.
            clock: seconds since 1970, UTC.
            entropy: random bytes, for a random IPv6 range.

        Raises:
            DatabaseError: the database is a newer one's, damaged, foreign, or cannot be written; it was not touched.
        """
        engine = open_database(path)
        try:
            return cls(engine, path, server_public_key=server_public_key, clock=clock, entropy=entropy)
        except BaseException:
            engine.dispose()
            raise

    def close(self) -> None:
        """Close the database; the registry cannot be used any more."""
        with self._lock:
            self._engine.dispose()

    # Reading.

    def devices(self) -> list[Device]:
        """All devices, by name."""
        return sorted(self._by_name.values(), key=lambda device: device.name)

    def get(self, name: str) -> Device:
        """The device with this name.

        Raises:
            DeviceNotFound: there is none.
        """
        device = self.find(name)
        if device is None:
            from difflib import get_close_matches  # for those who mistype

            similar = get_close_matches(name.lower(), tuple(self._by_name), n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else "`lopower device list` shows all"
            raise DeviceNotFound(f"there is no device {name!r}; {hint}")
        return device

    def find(self, name: str) -> Device | None:
        """The device with this name, or None."""
        return self._by_name.get(name.lower())

    @property
    def ranges(self) -> Ranges:
        """Where devices' addresses come from."""
        return self._ranges

    @property
    def timestamps_reserved_until(self) -> int:
        """Nanoseconds since 1970: the end of the range that our own handshake time stamps may have been taken from."""
        return self._timestamps_reserved_until

    # Changing devices.

    def add(self, new: NewDevice) -> Device:
        """Add one device; see `add_many`."""
        return self.add_many([new])[0]

    def add_many(self, new: Sequence[NewDevice]) -> list[Device]:
        """Add devices, all or none. Their rules may name each other.

        Raises:
            InvalidName, NameTaken, InvalidKey, KeyTaken, InvalidAddress, AddressTaken, AddressesExhausted,
            DeviceNotFound (of a rule), InvalidRule, InvalidDevice: one of them cannot be added.
            DatabaseError: the database did not take them.
        """
        with self._lock:
            names = self._check_new(new)
            allocation = Allocation(self._clock())
            try:
                addresses = self._allocate(new, names, allocation)
                with self._transaction() as connection:
                    added = rows.insert_devices(connection, new, names, addresses, self._by_name, int(self._clock()))
            except BaseException:
                allocation.undo()
                raise
            for device in added:
                self._put(device)
            return added

    def remove(self, name: str) -> Device:
        """Remove a device, and the rules of others that name it. Nobody gets its addresses for `RETIREMENT`.

        Raises:
            DeviceNotFound, DatabaseError
        """
        with self._lock:
            device = self.get(name)
            naming = self._naming(device.name)
            now = self._clock()
            addresses = [address for address in (device.ipv4, device.ipv6) if address is not None]
            with self._transaction() as connection:
                connection.execute(delete(schema.devices).where(schema.devices.c.id == device.id))
                connection.execute(
                    insert(schema.retired_addresses),
                    [{"address": str(address), "retired_at": int(now)} for address in addresses],
                )
            self._drop(device)
            self._forget_exposures(device.id)
            if device.ipv4 is not None and self._pool4 is not None:
                self._pool4.retire(device.ipv4, now)
            if device.ipv6 is not None:
                self._pool6.retire(device.ipv6, now)
            for other in naming:
                if other.id != device.id:
                    rules = tuple(rule for rule in other.rules if rule.device != device.name)
                    self._put(replace(other, rules=rules))
            return device

    def rename(self, name: str, new_name: str) -> Device:
        """Give a device another name; rules that name it follow.

        Raises:
            DeviceNotFound, InvalidName, NameTaken, DatabaseError
        """
        with self._lock:
            device = self.get(name)
            new_name = parse_name(new_name)
            if new_name == device.name:
                return device
            if new_name in self._by_name:
                raise NameTaken(f"there is a device {new_name!r} already; choose another name")
            naming = self._naming(device.name)
            self._update(device, name=new_name)
            self._put(replace(device, name=new_name))
            del self._by_name[device.name]
            for other in naming:
                current = self._by_key[other.public_key]
                rules = (replace(r, device=new_name) if r.device == device.name else r for r in current.rules)
                self._put(replace(current, rules=tuple(rules)))
            return self._by_name[new_name]

    def replace_key(self, name: str, public_key: bytes) -> Device:
        """Give a device another key, as after its board was replaced; everything else of it stays.

        Raises:
            DeviceNotFound, InvalidKey, KeyTaken, DatabaseError
        """
        with self._lock:
            device = self.get(name)
            if public_key == device.public_key:
                return device
            self._check_key(device.name, public_key)
            # Time stamps belong to a key: the new one has none yet.
            self._update(device, public_key=public_key, last_timestamp=None)
            del self._by_key[device.public_key]
            return self._put(replace(device, public_key=public_key, last_timestamp=None))

    def set_enabled(self, name: str, enabled: bool) -> Device:
        """Let a device connect, or not.

        Raises:
            DeviceNotFound, DatabaseError
        """
        with self._lock:
            device = self.get(name)
            self._update(device, enabled=enabled)
            return self._put(replace(device, enabled=enabled))

    def set_rules(self, name: str, rules: Sequence[Rule]) -> Device:
        """Replace a device's rules.

        Raises:
            DeviceNotFound: it, or a device that a rule names, does not exist.
            InvalidRule, DatabaseError
        """
        with self._lock:
            device = self.get(name)
            _check_rules(device.name, rules, self._by_name)
            with self._transaction() as connection:
                connection.execute(delete(schema.rules).where(schema.rules.c.device_id == device.id))
                rows.insert_rules(connection, [(device.id, rules)], lambda other: self._by_name[other].id)
            return self._put(replace(device, rules=tuple(rules)))

    def set_configuration_digest(self, name: str, digest: str) -> Device:
        """Remember which configuration a device was given last.

        Raises:
            DeviceNotFound, DatabaseError
        """
        with self._lock:
            device = self.get(name)
            self._update(device, configuration_digest=digest)
            return self._put(replace(device, configuration_digest=digest))

    def reset_timestamp(self, name: str) -> Device:
        """Forget a device's greatest time stamp, so that it may connect although its clock went back.

        Until its next handshake, recorded initiations of it can be replayed; a replay opens no session.

        Raises:
            DeviceNotFound, DatabaseError
        """
        with self._lock:
            device = self.get(name)
            self._update(device, last_timestamp=None)
            return self._put(replace(device, last_timestamp=None))

    def store_timestamps(self, timestamps: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep the time stamps (12-byte TAI64N) that devices, by public key, initiated with; one transaction.

        A stamp smaller than the one kept, and those of unknown keys, are passed over.

        Raises:
            DatabaseError
        """
        with self._lock:
            newer: dict[bytes, bytes] = {}
            for key, stamp in timestamps:
                device = self._by_key.get(key)
                if len(stamp) != _TIMESTAMP_LENGTH:
                    raise ValueError(f"a TAI64N stamp has {_TIMESTAMP_LENGTH} bytes, not {len(stamp)}")
                if device is not None and stamp > max(device.last_timestamp or b"", newer.get(key, b"")):
                    newer[key] = stamp
            self._store("last_timestamp", newer, lambda stamp: {"last_timestamp": stamp})

    def store_endpoints(self, endpoints: Iterable[tuple[bytes, tuple[str, int]]]) -> None:
        """Keep where devices, by public key, were seen last; one transaction. Unknown keys are passed over.

        Raises:
            DatabaseError
        """
        with self._lock:
            changed = self._changed("last_endpoint", endpoints)
            self._store("last_endpoint", changed, lambda at: {"last_host": at[0], "last_port": at[1]})

    def store_firmware(self, told: Iterable[tuple[bytes, Firmware]]) -> None:
        """Keep what devices, by public key, say that they run; one transaction. Unknown keys are passed over.

        Raises:
            DatabaseError
        """
        with self._lock:
            changed = self._changed("firmware", told)
            self._store("firmware", changed, lambda firmware: {"firmware": firmware.to_json()})

    def _changed(self, attribute: str, told: Iterable[tuple[bytes, _Value]]) -> dict[bytes, _Value]:
        """What is new of devices that are known, by public key. The lock is held."""
        return {
            key: value
            for key, value in told
            if (device := self._by_key.get(key)) is not None and getattr(device, attribute) != value
        }

    def _store(
        self, attribute: str, values: Mapping[bytes, _Value], columns: Callable[[_Value], dict[str, object]]
    ) -> None:
        """Keep an attribute of devices, by public key, in its columns; one transaction. The lock is held."""
        if not values:
            return
        with self._transaction() as connection:
            connection.execute(
                update(schema.devices).where(schema.devices.c.public_key == bindparam("key")),
                [{"key": key, **columns(value)} for key, value in values.items()],
            )
        for key, value in values.items():
            changes: dict[str, Any] = {attribute: value}
            self._put(replace(self._by_key[key], **changes))

    # Changing the rest.

    def reserve_timestamps(self, until: int) -> None:
        """Reserve our own handshake time stamps up to `until` (nanoseconds since 1970); never less than before.

        When it returns that is durable: after a restart stamps begin behind it, whatever the clock says.

        Raises:
            DatabaseError
        """
        with self._lock:
            if until <= self._timestamps_reserved_until:
                return
            with self._transaction() as connection:
                rows.store_timestamps_reserved_until(connection, until)
            self._timestamps_reserved_until = until

    def set_ranges(self, ipv4: IPv4Network | None, ipv6: IPv6Network | Literal["random"]) -> Ranges:
        """Make these the devices' ranges; a wider range keeps all addresses. Doing nothing costs nothing.

        Args:
            ipv4: None: no IPv4.
            ipv6: `random` draws a range the first time and keeps it from then on.

        Raises:
            InvalidRange: devices cannot live in it.
            DevicesStranded: devices have addresses that it does not contain, or that would be the gateway's.
            DatabaseError
        """
        with self._lock:
            random = ipv6 == "random"
            if isinstance(ipv6, str):
                ipv6 = self._ranges.ipv6 if self._random_ipv6 else draw_ipv6(self._entropy)
            ranges = Ranges(ipv4=ipv4, ipv6=ipv6)
            if ranges == self._ranges and random == self._random_ipv6:
                return ranges
            for network in ranges.networks:
                check_range(network)
            self._refuse_to_strand(ranges)
            with self._transaction() as connection:
                rows.store_ranges(connection, ranges, random)
                retired = rows.retired_addresses(connection)
            self._ranges = ranges
            self._random_ipv6 = random
            self._fill_pools(retired)
            return ranges

    # Behind the scenes.

    def _transaction(self) -> AbstractContextManager[Connection]:
        return transaction(self._engine, self.path)

    def _update(self, device: Device, **values: object) -> None:
        with self._transaction() as connection:
            connection.execute(update(schema.devices).where(schema.devices.c.id == device.id).values(**values))

    def _put(self, device: Device) -> Device:
        self._by_name[device.name] = device
        self._by_key[device.public_key] = device
        return device

    def _drop(self, device: Device) -> None:
        del self._by_name[device.name]
        del self._by_key[device.public_key]

    def _naming(self, name: str) -> list[Device]:
        """The devices with a rule that names this one."""
        return [device for device in self._by_name.values() if any(rule.device == name for rule in device.rules)]

    def _load(self, connection: Connection) -> None:
        stored = rows.load(connection)
        for device in stored.devices:
            self._put(device)
        self._load_offers(stored)
        self._timestamps_reserved_until = stored.timestamps_reserved_until
        if stored.ranges is None:
            rows.store_ranges(connection, self._ranges, self._random_ipv6)
        else:
            self._ranges, self._random_ipv6 = stored.ranges, stored.random_ipv6
        rows.forget_retired(connection, int(self._clock()) - RETIREMENT)
        self._fill_pools(rows.retired_addresses(connection))

    def _fill_pools(self, retired: Iterable[tuple[IPAddress, int]]) -> None:
        self._pool4 = AddressPool(self._ranges.ipv4, IPv4Address) if self._ranges.ipv4 is not None else None
        self._pool6 = AddressPool(self._ranges.ipv6, IPv6Address)
        for device in self._by_name.values():
            if device.ipv4 is not None and self._pool4 is not None:
                self._pool4.take(device.ipv4)
            if device.ipv6 is not None:
                self._pool6.take(device.ipv6)
        for address, since in retired:
            if isinstance(address, IPv6Address):
                if address in self._pool6:
                    self._pool6.retire(address, since)
            elif self._pool4 is not None and address in self._pool4:
                self._pool4.retire(address, since)

    def _refuse_to_strand(self, ranges: Ranges) -> None:
        for version, network in ((4, ranges.ipv4), (6, ranges.ipv6)):
            stranded = tuple(
                device.name
                for device in self.devices()
                if (address := device.ipv4 if version == 4 else device.ipv6) is not None
                and (network is None or not holds(network, address))
            )
            if stranded:
                shown = ", ".join(stranded[:10]) + (f" and {len(stranded) - 10} more" if len(stranded) > 10 else "")
                current = self._ranges.ipv4 if version == 4 else self._ranges.ipv6
                raise DevicesStranded(
                    f"{network if network is not None else 'switching IPv4 off'} would take away the IPv{version} "
                    f"addresses of {shown}; keep {current} or a range that contains it, or remove these devices first",
                    stranded,
                )

    def _check_new(self, new: Sequence[NewDevice]) -> list[str]:
        names: dict[str, None] = {}
        keys: dict[bytes, str] = {}
        for device in new:
            name = parse_name(device.name)
            if name in self._by_name or name in names:
                raise NameTaken(f"there is a device {name!r} already; choose another name, or remove that one first")
            names[name] = None
            self._check_key(name, device.public_key)
            if device.public_key in keys:
                raise KeyTaken(f"{name} and {keys[device.public_key]} have the same public key; each needs its own")
            keys[device.public_key] = name
            if device.preshared_key is not None and len(device.preshared_key) != KEY_LENGTH:
                raise InvalidKey(f"the preshared key of {name} is not {KEY_LENGTH} bytes long")
            if device.mtu is not None and not MIN_MTU <= device.mtu <= MAX_MTU:
                raise InvalidDevice(f"the MTU of {name} must be {MIN_MTU} to {MAX_MTU} bytes, not {device.mtu}")
            if not 0 <= device.persistent_keepalive <= MAX_KEEPALIVE:
                raise InvalidDevice(
                    f"the persistent keepalive of {name} must be 0 (off) to {MAX_KEEPALIVE} seconds, "
                    f"not {device.persistent_keepalive}"
                )
        for name, device in zip(names, new, strict=True):
            _check_rules(name, device.rules, self._by_name, names)
        return list(names)

    def _check_key(self, name: str, key: bytes) -> None:
        if len(key) != KEY_LENGTH or not any(key):
            raise InvalidKey(f"the public key of {name} is not a key: {KEY_LENGTH} bytes, not all of them zero")
        if key == self._server_public_key:
            raise InvalidKey(
                f"the public key given for {name} is the server's own; `wg pubkey` on the device prints its"
            )
        other = self._by_key.get(key)
        if other is not None:
            raise KeyTaken(f"{other.name} has this public key already; each device needs its own")

    def _allocate(
        self, new: Sequence[NewDevice], names: Sequence[str], allocation: Allocation
    ) -> list[tuple[IPv4Address | None, IPv6Address]]:
        """Addresses for new devices: first those asked for by name, so that none of the others gets them."""
        for name, device in zip(names, new, strict=True):
            if isinstance(device.ipv4, IPv4Address):
                if self._pool4 is None:
                    raise InvalidAddress(f"{name} cannot have {device.ipv4}: IPv4 is switched off")
                allocation.take(self._pool4, name, device.ipv4)
            if isinstance(device.ipv6, IPv6Address):
                allocation.take(self._pool6, name, device.ipv6)
        addresses = []
        for name, device in zip(names, new, strict=True):
            ipv4 = device.ipv4
            if ipv4 == "auto":
                ipv4 = None if self._pool4 is None else allocation.take_lowest(self._pool4, name)
            ipv6 = allocation.take_lowest(self._pool6, name) if device.ipv6 == "auto" else device.ipv6
            addresses.append((ipv4, ipv6))
        return addresses


def _check_rules(name: str, rules: Sequence[Rule], *known: Container[str]) -> None:
    if len(rules) > MAX_RULES_PER_DEVICE:
        raise InvalidRule(f"{name} can have {MAX_RULES_PER_DEVICE} rules at most, not {len(rules)}")
    for rule in rules:
        if rule.device is not None and not any(rule.device in names for names in known):
            raise DeviceNotFound(f"the rule {str(rule)!r} of {name} names a device that does not exist; add that first")
