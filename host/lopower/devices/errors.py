"""What can go wrong with the registry; each text says to a person what, why, and what to do next."""
# ruff: noqa: N818  (the names say what is wrong)

from __future__ import annotations


class RegistryError(Exception):
    """Any of these; `str()` of it is a complete message."""


class DeviceNotFound(RegistryError):
    """No device has this name."""


class InvalidName(RegistryError):
    """Not a DNS label (RFC 1123), or a reserved one."""


class NameTaken(RegistryError):
    """Another device has this name."""


class InvalidKey(RegistryError):
    """Not 32 bytes of base64, all zero, or the server's own."""


class KeyTaken(RegistryError):
    """Another device has this public key."""


class InvalidAddress(RegistryError):
    """Outside the range, the gateway's, or one that no host can have."""


class AddressTaken(RegistryError):
    """Another device has this address, or had it until recently."""


class AddressesExhausted(RegistryError):
    """The range has no free address left."""


class InvalidRange(RegistryError):
    """A range that devices cannot have."""


class DevicesStranded(RegistryError):
    """A new range would take away addresses that devices have.

    Attributes:
        names: those devices, in order.
    """

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


class InvalidRule(RegistryError):
    """A rule that does not follow the grammar of `policy`."""


class InvalidDevice(RegistryError):
    """Another setting of a device that is out of its range."""


class PortNotServed(RegistryError):
    """The gateway does not offer this port."""


class InvalidExposure(RegistryError):
    """What cannot be exposed to the tailnet as it was asked for."""


class PlaceTaken(RegistryError):
    """Another device is exposed there."""


class NotExposed(RegistryError):
    """Nothing is exposed there."""


class InvalidAdvertisement(RegistryError):
    """Routes that cannot be advertised as it was asked for."""


class InvalidZone(RegistryError):
    """A domain under which devices' names cannot be found."""


class InvalidCsv(RegistryError):
    """A list of devices that cannot be read; the text names the line."""


class ConfigurationUnavailable(RegistryError):
    """The device cannot have a configuration in this format."""


class DatabaseError(RegistryError):
    """The database cannot be used as it is, or did not take a change; nothing of the change was kept."""


class DatabaseNewer(DatabaseError):
    """A newer lopower has written it; it was not touched."""


class DatabaseForeign(DatabaseError):
    """Another program's file; it was not touched."""


class DatabaseCorrupt(DatabaseError):
    """Damaged; it was not touched."""


class DatabaseFull(DatabaseError):
    """The disk is full."""
