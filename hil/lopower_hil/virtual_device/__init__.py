"""A device without hardware: lopower's own WireGuard core and netstack as a client, many to one process."""

from lopower_hil.virtual_device.configuration import ConfigurationError, DeviceConfiguration
from lopower_hil.virtual_device.device import VirtualDevice
from lopower_hil.virtual_device.flows import VirtualDatagrams, VirtualStream

__all__ = ["ConfigurationError", "DeviceConfiguration", "VirtualDatagrams", "VirtualDevice", "VirtualStream"]
