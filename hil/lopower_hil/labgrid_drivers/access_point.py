"""An access point of the lab: its network's name, and commands that switch it."""

from __future__ import annotations

import abc
import os
import shlex
from typing import Any

import attr
from labgrid.driver.common import Driver
from labgrid.driver.exception import ExecutionError
from labgrid.factory import target_factory
from labgrid.resource.common import Resource
from labgrid.step import step
from labgrid.util.helper import processwrapper


@target_factory.reg_resource
@attr.s(eq=False)
class WifiAccessPoint(Resource):
    """A network that the target's board joins.

    Args:
        ssid (str): its name
        password_variable (str): environment variable that holds its password; "" for an open network. The password
            itself does not belong into a file that a lab shares.
    """

    ssid: Any = attr.ib(validator=attr.validators.instance_of(str))
    password_variable: Any = attr.ib(default="LOPOWER_WIFI_PASSWORD", validator=attr.validators.instance_of(str))

    @property
    def password(self) -> str:
        """Raises ExecutionError if the variable is not set."""
        if not self.password_variable:
            return ""
        try:
            return os.environ[self.password_variable]
        except KeyError:
            raise ExecutionError(
                f"the password of the network {self.ssid!r} is expected in the variable {self.password_variable}"
            ) from None


class AccessPointProtocol(abc.ABC):
    """What switches an access point."""

    @abc.abstractmethod
    def on(self) -> None:
        """It is heard."""

    @abc.abstractmethod
    def off(self) -> None:
        """It is not."""


@target_factory.reg_driver
@attr.s(eq=False)
class AccessPointCommandDriver(Driver, AccessPointProtocol):
    """Switches an access point by commands of this machine, as labgrid's ExternalPowerDriver does with power.

    Args:
        cmd_on (str): for example `sudo hostapd_cli -i wlan0 enable`
        cmd_off (str): for example `sudo hostapd_cli -i wlan0 disable`
    """

    bindings = {"access_point": "WifiAccessPoint"}  # noqa: RUF012 - as labgrid's BindingMixin reads it
    cmd_on: Any = attr.ib(validator=attr.validators.instance_of(str))
    cmd_off: Any = attr.ib(validator=attr.validators.instance_of(str))

    @Driver.check_active
    @step()
    def on(self) -> None:
        """It is heard."""
        processwrapper.check_output(shlex.split(self.cmd_on))

    @Driver.check_active
    @step()
    def off(self) -> None:
        """It is not."""
        processwrapper.check_output(shlex.split(self.cmd_off))
