"""Wi-Fi as a station: the settings' networks by priority, tried in turn; in words what is missing.

Loaded until a network is joined, and again when it is lost.

What `network.WLAN` of the ESP32 does, and why this is as it is: without a limit of reconnections its `status` says
"connecting" for ever, whatever fails; a reason stays until the next success, over a change of the network; an association
without an address from DHCP is told from none by the signal's strength alone; a fixed address stays until "dhcp" is asked.
"""

from . import ticks

CONNECT_TIMEOUT = 15_000
"""Milliseconds for association and DHCP, before the next network is tried."""
SETTLE = 6_000
"""Milliseconds before a reason is believed: until then it may be the network's that was tried before."""
WATCH_PERIOD = 1_000
"""Milliseconds between two looks at a link that is not up."""
RECONNECTIONS = 1
"""Attempts of the port itself, after which it tells the reason."""

_NO_AP = "no access point", "no access point in reach has the name %s"
_SECURITY = "no access point", "no access point named %s has a security that fits the password, or its absence"
_PASSWORD = "wrong password", "the password of %s is wrong"
_PROBLEMS = {  # esp_wifi_types.h, wifi_err_reason_t
    201: _NO_AP,
    212: _NO_AP,
    210: _SECURITY,
    211: _SECURITY,
    202: _PASSWORD,
    204: _PASSWORD,
    15: _PASSWORD,  # the four-way handshake was not answered
    200: ("no access point", "%s is lost: its beacons are not heard"),
    203: ("refused", "%s refuses the device"),
}


def join(settings):
    """(the port's WLAN, the Station that joins a network), or (None, None) where there is no Wi-Fi or none is wanted."""
    if not settings.wifi:
        return None, None
    try:
        import network
    except ImportError:
        return None, None
    wlan = network.WLAN(network.STA_IF)
    station = Station(settings, wlan)
    station.begin(settings)
    return wlan, station


class Station:
    """Watched each turn until there is a link. Nothing here raises or waits.

    As it is made, a link has been lost: the port itself tries to join that network again, before the preferred one's turn.
    """

    def __init__(self, settings, wlan):
        from .tunnel import clock

        self._clock = clock
        order = sorted([(-entry.get("priority", 0), place) for place, entry in enumerate(settings.wifi)])
        self._networks = [settings.wifi[place] for _, place in order]
        self._failures = {}
        self._error = None
        self._is_lost = True
        self._looked = self._began = clock()
        self._wlan = wlan
        self._number = -1
        try:
            name = wlan.config("ssid")
            for number, entry in enumerate(self._networks):
                if entry["ssid"] == name:
                    self._number = number
                    break
        except (OSError, ValueError):
            pass  # it was none
        self._is_fixed = self._number >= 0 and "address" in self._networks[self._number]

    def begin(self, settings):
        """Join a network, the preferred one first, unless there is a link since before a soft reset."""
        import network

        self._is_fixed = self._is_lost = False
        for name, value in (("country", settings.country), ("hostname", settings.hostname)):
            if value:
                self._try(getattr(network, name), value)
        self._try(self._wlan.active, True)
        try:
            self._wlan.config(reconnects=RECONNECTIONS)
        except (ValueError, TypeError, OSError):
            pass  # the ESP32's alone
        if self._number < 0 or not self._wlan.isconnected():
            self._number = -1
            self._next()

    def _try(self, function, *arguments):
        try:
            function(*arguments)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            self._error = error

    def _next(self):
        self._number = (self._number + 1) % len(self._networks)
        entry = self._networks[self._number]
        self._error = None
        try:
            self._wlan.disconnect()
        except OSError:
            pass  # it was not connected
        if "address" in entry:
            self._is_fixed = True
            address = entry["address"], entry["netmask"], entry["gateway"], entry.get("dns", entry["gateway"])
            self._try(self._wlan.ifconfig, address)
        elif self._is_fixed:
            self._is_fixed = False
            self._try(self._wlan.ifconfig, "dhcp")
        self._try(self._wlan.connect, entry["ssid"], entry.get("password"))
        self._began = self._clock()

    def problem(self):
        """(cause, what is missing in words), of all networks that were tried."""
        cause, text = self._failure()
        others = [failure for number, failure in self._failures.items() if number != self._number]
        if cause == "connecting" and self._number in self._failures:
            cause, text = self._failures[self._number]
        for other in others:
            text += "; " + other[1]
            if cause == "connecting":
                cause = other[0]
        return cause, text

    def _failure(self):
        name = self._networks[self._number]["ssid"]
        if self._error is not None:
            return "connecting", "Wi-Fi does not start connecting to %s: %r" % (name, self._error)
        try:
            self._wlan.status("rssi")
            return "no lease", "%s is joined, but its DHCP server gives no address" % name
        except (OSError, ValueError, TypeError):
            pass  # no association
        failure = _PROBLEMS.get(self._wlan.status())
        if failure is None or ticks.diff(self._clock(), self._began) < SETTLE:
            return "connecting", "connecting to " + name
        return failure[0], failure[1] % name

    def joined(self):
        """There is a link."""
        entry = self._networks[self._number]
        if "dns" in entry and "address" not in entry:
            self._try(_set_dns, entry["dns"])

    def watch(self, now):
        """Go on to the next network if this one does not come up; after a loss, from the preferred one on."""
        if self._number < 0:
            self._next()
        if ticks.diff(now, self._looked) < WATCH_PERIOD:
            return
        self._looked = now
        waited = ticks.diff(now, self._began)
        if waited < SETTLE:
            return
        failure = self._failure()
        if waited >= CONNECT_TIMEOUT or failure[0] not in ("connecting", "no lease"):
            self._failures[self._number] = failure
            if self._is_lost:
                self._is_lost, self._number = False, -1
            self._next()


def _set_dns(server):
    import network

    network.ipconfig(dns=server)
