"""Resources and drivers for labgrid: boards that run MicroPython, and the access points that they join.

An environment loads them by `imports: [lopower_hil.labgrid_drivers]`. Serial ports and power switches are labgrid's.
"""

from lopower_hil.labgrid_drivers.access_point import AccessPointCommandDriver, AccessPointProtocol, WifiAccessPoint
from lopower_hil.labgrid_drivers.micropython import MicroPythonDriver

__all__ = ["AccessPointCommandDriver", "AccessPointProtocol", "MicroPythonDriver", "WifiAccessPoint"]
