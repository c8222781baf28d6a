"""Wi-Fi as a station: the settings' networks by priority, tried in turn; in words what is missing."""

from . import ticks

CONNECT_TIMEOUT = 15_000
WATCH_PERIOD = 1_000
"""Milliseconds between two looks at the link."""

_PROBLEMS = {
    201: "no access point in reach has the name %s",
    202: "the password of %s is wrong",
    204: "the password of %s is wrong",
    15: "the password of %s is wrong",
    200: "%s is lost: its beacons are not heard",
    203: "%s refuses the device",
}


def station(settings):
    """The Wi-Fi of this board, connecting; None where the port has none, or no network is given."""
    if not settings.wifi:
        return None
    try:
        import network
    except ImportError:
        return None
    return Station(settings, network)


class Station:
    """Watched by `problem`, which the tunnel asks often: it reconnects, or goes on to the next network."""

    def __init__(self, settings, network):
        from .tunnel import clock

        self._clock = clock
        self._settings = settings
        self._networks = sorted(settings.wifi, key=lambda entry: -entry.get("priority", 0))
        if settings.country:
            network.country(settings.country)
        if settings.hostname:
            network.hostname(settings.hostname)
        self._wlan = network.WLAN(network.STA_IF)
        self._wlan.active(True)
        self._number = -1
        self._next()

    def _next(self):
        self._number = (self._number + 1) % len(self._networks)
        entry = self._networks[self._number]
        self._wlan.disconnect()
        if "address" in entry:
            self._wlan.ifconfig(
                (entry["address"], entry["netmask"], entry["gateway"], entry.get("dns", entry["gateway"]))
            )
        self._wlan.connect(entry["ssid"], entry.get("password"))
        self._began = self._clock()

    def is_connected(self):
        """Whether there is a link with an address."""
        return self._wlan.isconnected()

    def problem(self):
        """None while connected; else what is missing."""
        name = self._networks[self._number]["ssid"]
        if self._wlan.isconnected():
            return None
        status = self._wlan.status()
        text = _PROBLEMS.get(status)
        if text is None:
            return "connecting to %s, or no address was given by it" % name
        return text % name

    def watch(self, now):
        """Go on to the next network if this one does not come up."""
        if self._wlan.isconnected():
            self._began = now
        elif ticks.diff(now, self._began) >= CONNECT_TIMEOUT:
            self._next()
