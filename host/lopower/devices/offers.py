"""What is offered beside the devices: ports of the gateway's, and what of the devices the tailnet reaches."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal

from sqlalchemy import Connection, delete
from sqlalchemy.dialects.sqlite import insert as upsert

from lopower.devices import rows, schema
from lopower.devices.advertising import Advertisement, Zone
from lopower.devices.device import Device, ServedPort
from lopower.devices.errors import DeviceNotFound, NotExposed, PlaceTaken, PortNotServed
from lopower.devices.exposures import Exposure


class Offers:
    """The part of the registry that no device's own row holds; kept as the registry keeps devices.

    Every error raised here is a `RegistryError`. A change that raises has changed nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # held by writers, during their transactions
        self._served: dict[tuple[str, int], ServedPort] = {}
        self._exposures: dict[str, Exposure] = {}
        self._advertisement: Advertisement | None = None
        self._zone: Zone | None = None

    # Of the whole registry.

    def _transaction(self) -> AbstractContextManager[Connection]:
        raise NotImplementedError

    def devices(self) -> list[Device]:
        """All devices, by name."""
        raise NotImplementedError

    # Reading.

    def served_ports(self) -> list[ServedPort]:
        """What the gateway offers, by protocol and port."""
        return sorted(self._served.values(), key=lambda entry: (entry.protocol, entry.port))

    def exposures(self) -> list[Exposure]:
        """What of the devices the tailnet reaches."""
        return sorted(self._exposures.values(), key=lambda exposure: exposure.place)

    @property
    def advertisement(self) -> Advertisement | None:
        """How the tailnet is told of the devices' ranges; None: not at all."""
        return self._advertisement

    @property
    def zone(self) -> Zone | None:
        """The domain under which the tailnet finds the devices' names; None: nowhere."""
        return self._zone

    # Changing.

    def serve(self, entry: ServedPort) -> None:
        """Offer a port of the gateway, in place of what it offered there.

        Raises:
            DatabaseError
        """
        host, port = entry.target
        values = {"target_host": str(host), "target_port": port}
        with self._lock:
            with self._transaction() as connection:
                connection.execute(
                    upsert(schema.served_ports)
                    .values(protocol=entry.protocol, port=entry.port, **values)
                    .on_conflict_do_update(index_elements=["protocol", "port"], set_=values)
                )
            self._served[entry.protocol, entry.port] = entry

    def unserve(self, protocol: Literal["tcp", "udp"], port: int) -> ServedPort:
        """Offer a port no longer.

        Raises:
            PortNotServed, DatabaseError
        """
        with self._lock:
            entry = self._served.get((protocol, port))
            if entry is None:
                raise PortNotServed(f"port {port}/{protocol} is not offered; `lopower serve` lists those that are")
            table = schema.served_ports
            with self._transaction() as connection:
                connection.execute(delete(table).where(table.c.protocol == protocol, table.c.port == port))
            del self._served[protocol, port]
            return entry

    def expose(self, exposure: Exposure) -> None:
        """Let the tailnet reach something of a device; what it reached of this device at that place is replaced.

        Raises:
            InvalidExposure, PlaceTaken, DatabaseError
        """
        exposure.check()
        with self._lock:
            before = self._exposures.get(exposure.place)
            if before is not None and before.device_id != exposure.device_id:
                other = next((device.name for device in self.devices() if device.id == before.device_id), "another")
                raise PlaceTaken(
                    f"{other} is exposed there already; take that back first: `lopower expose {other} --off`"
                )
            if not any(device.id == exposure.device_id for device in self.devices()):
                raise DeviceNotFound("the device was removed meanwhile")
            with self._transaction() as connection:
                rows.store_exposure(connection, exposure)
            self._exposures[exposure.place] = exposure

    def unexpose(self, places: Iterable[str]) -> None:
        """Let the tailnet reach nothing any more at these places.

        Raises:
            NotExposed: nothing is reached at one of them.
            DatabaseError
        """
        wanted = list(places)
        with self._lock:
            for place in wanted:
                if place not in self._exposures:
                    raise NotExposed(f"nothing is exposed at {place}; `lopower expose` lists what is")
            table = schema.exposures
            with self._transaction() as connection:
                connection.execute(delete(table).where(table.c.place.in_(wanted)))
            for place in wanted:
                del self._exposures[place]

    def set_advertisement(self, advertisement: Advertisement | None) -> None:
        """Tell the tailnet of the devices' ranges in this way from now on.

        Raises:
            DatabaseError
        """
        with self._lock:
            with self._transaction() as connection:
                rows.store_advertisement(connection, advertisement)
            self._advertisement = advertisement

    def set_zone(self, zone: Zone | None) -> None:
        """Let the tailnet find the devices' names under this domain from now on.

        Raises:
            DatabaseError
        """
        with self._lock:
            with self._transaction() as connection:
                rows.store_zone(connection, zone)
            self._zone = zone

    # Behind the scenes.

    def _load_offers(self, stored: rows.Stored) -> None:
        self._served = {(entry.protocol, entry.port): entry for entry in stored.served_ports}
        self._exposures = {entry.place: entry for entry in stored.exposures}
        self._advertisement = stored.advertisement
        self._zone = stored.zone

    def _forget_exposures(self, device_id: int) -> None:
        """A device is gone; its rows went with it."""
        for place in [key for key, entry in self._exposures.items() if entry.device_id == device_id]:
            del self._exposures[place]
