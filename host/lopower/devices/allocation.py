"""The addresses that one change to the registry takes: all of them, or in the end none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from lopower.devices.addresses import RETIREMENT, Address, AddressPool, IPNetwork, check_range, gateway_of
from lopower.devices.errors import AddressesExhausted, AddressTaken, InvalidAddress, InvalidRange


class Allocation:
    """The addresses that one change takes, to be given back if it fails."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._undo: list[Callable[[], None]] = []

    def take(self, pool: AddressPool[Address], name: str, address: Address) -> None:
        """Take this very address for the device `name`.

        Raises:
            InvalidAddress, AddressTaken
        """
        if address not in pool:
            gateway = address == gateway_of(pool.network)
            why = "it is the gateway's" if gateway else f"devices have addresses in {pool.network}"
            raise InvalidAddress(f"{name} cannot have {address}: {why}; without --address it gets a free one")
        if not pool.is_free(address, self._now):
            raise AddressTaken(
                f"{name} cannot have {address}: a device has it, or had it within the last {RETIREMENT // 3600} hours; "
                "without --address it gets a free one"
            )
        pool.take(address)
        self._undo.append(lambda: pool.give_back(address))

    def take_lowest(self, pool: AddressPool[Address], name: str) -> Address:
        """Take the lowest free address for the device `name`.

        Raises:
            AddressesExhausted: there is none.
        """
        address = pool.take_lowest(self._now)
        if address is None:
            raise AddressesExhausted(_exhausted(pool.network, name, pool.free_from(self._now)))
        self._undo.append(lambda: pool.give_back(address))
        return address

    def undo(self) -> None:
        """Give all of them back."""
        for step in self._undo:
            step()


def _exhausted(network: IPNetwork, name: str, free_from: float | None) -> str:
    wider = network.supernet()
    try:
        check_range(wider)
        example = str(wider)
    except InvalidRange:
        example = "CIDR"
    parts = [f"widen the range with `lopower up --ipv{network.version} {example}`"]
    if network.version == 4:
        parts.append(f"add the device with IPv6 alone (`lopower device add {name} --address ipv6-only`)")
    if free_from is not None:
        moment = datetime.fromtimestamp(free_from, UTC)
        parts.append(f"wait until {moment:%Y-%m-%d %H:%M} UTC, when the address of a removed device becomes free")
    return f"no address of {network} is left for {name}: " + ", or ".join(parts)
