"""`network` of the ESP32 port: a station that joins the access points which the board says are in reach."""

import time as _time

import _board

IF_STA = STA_IF = 0
IF_AP = AP_IF = 1
STAT_IDLE = 1000
STAT_CONNECTING = 1001
STAT_GOT_IP = 1010
STAT_BEACON_TIMEOUT = 200
STAT_NO_AP_FOUND = 201
STAT_WRONG_PASSWORD = 202
STAT_ASSOC_FAIL = 203
STAT_HANDSHAKE_TIMEOUT = 204
AUTH_OPEN = 0
AUTH_WEP = 1
AUTH_WPA_PSK = 2
AUTH_WPA2_PSK = 3
AUTH_WPA_WPA2_PSK = 4
AUTH_WPA2_ENTERPRISE = 5
AUTH_WPA3_PSK = 6
AUTH_WPA2_WPA3_PSK = 7
MODE_11B = 1
MODE_11G = 2
MODE_11N = 4

_country = "XX"
_hostname = "mpy-esp32"
_phy_mode = MODE_11B | MODE_11G | MODE_11N


def country(code=None):
    global _country
    if code is None:
        return _country
    if len(code) != 2:
        raise ValueError("bad country code")
    _country = code


def hostname(name=None):
    global _hostname
    if name is None:
        return _hostname
    if len(name) > 32:
        raise ValueError("hostname too long")
    _hostname = name


def phy_mode(mode=None):
    global _phy_mode
    if mode is None:
        return _phy_mode
    _phy_mode = mode


def ipconfig(name=None, **options):
    values = {"dns": station.dns, "prefer": 4}
    if name is not None:
        return values[name]
    if "dns" in options:
        station.dns = options["dns"]


class _Station:
    """The one station: what it wants, and, looked at when somebody asks, how far it is."""

    def __init__(self):
        self.active = False
        self.ssid = None
        self.key = None
        self.static = None
        self.dns = "0.0.0.0"
        self.failure = None
        self.outages = 0
        self.power_save = 1
        self.reconnects = -1
        self._began = 0
        self._up = False
        self._generation = -1
        self._seen = {}

    def seen(self):
        """What the radio sees now: ssid -> access point, and how long joining takes."""
        generation = _board.wires.radio_generation
        if generation != self._generation:
            self._seen = _board.radio()
            self._generation = generation
        return self._seen

    def point(self):
        """The access point that it wants, if it is in reach."""
        if not self.active or not _board.wires.radio or self.ssid is None:
            return None
        for point in self.seen()["access_points"]:
            if point["ssid"] == self.ssid:
                return point
        return None

    def connect(self, ssid, key):
        self.ssid, self.key = ssid, key
        self._restart(None)

    def disconnect(self):
        self.ssid = None
        self._down(None)

    def _restart(self, failure):
        self._began = _time.ticks_ms()
        self._down(failure)

    def _down(self, failure):
        if self._up:
            self.outages += 1
        self._up = False
        self.failure = failure

    def up(self):
        """Whether it has joined, and has an address."""
        if self._up and _board.wires.radio and _board.wires.radio_generation == self._generation:
            return True
        point = self.point()
        if self._up:
            if point is None or not self._admitted(point):
                self._restart(STAT_BEACON_TIMEOUT)
            return self._up
        if point is None:
            if self.ssid is not None and self.failure is None and self._waited(2):
                self.failure = STAT_NO_AP_FOUND
            return False
        if not self._waited(1):
            return False
        if self._admitted(point):
            self._up, self.failure = True, None
        else:
            self.failure = STAT_WRONG_PASSWORD
        return self._up

    def _admitted(self, point):
        return not point["key"] or point["key"] == self.key

    def _waited(self, times):
        return _time.ticks_diff(_time.ticks_ms(), self._began) >= times * self.seen()["join_ms"]

    def status(self):
        if self.up():
            return STAT_GOT_IP
        if self.failure is not None:
            return self.failure
        return STAT_IDLE if self.ssid is None else STAT_CONNECTING

    def address(self):
        """(address, netmask, gateway, DNS server)."""
        if self.static is not None:
            return self.static
        if not self.up():
            return ("0.0.0.0", "0.0.0.0", "0.0.0.0", "0.0.0.0")
        return tuple(self.point()["address"])

    def resolve(self, host):
        """What the host is to resolve for `host`: the network's own names have their address."""
        point = self.point()
        return host if point is None else point["names"].get(host, host)


station = _Station()


class WLAN:
    """The station; as an access point it can be configured, and nobody joins."""

    IF_STA = IF_STA
    IF_AP = IF_AP
    SEC_OPEN = AUTH_OPEN
    SEC_WPA_WPA2 = AUTH_WPA_WPA2_PSK
    PM_NONE = 0
    PM_PERFORMANCE = 1
    PM_POWERSAVE = 2

    _instances = {}

    def __new__(cls, interface=IF_STA):
        if interface not in (IF_STA, IF_AP):
            raise ValueError("invalid WLAN interface identifier")
        if interface not in cls._instances:
            cls._instances[interface] = object.__new__(cls)
            cls._instances[interface]._setup(interface)
        return cls._instances[interface]

    def __init__(self, interface=IF_STA):
        pass

    def _setup(self, interface):
        self._is_station = interface == IF_STA
        self._active = False
        self._values = {"ssid": "ESP_%02X%02X%02X" % tuple(_board.mac[3:]), "channel": 1, "txpower": 20}

    def active(self, value=None):
        if value is None:
            return self._active
        self._active = bool(value)
        if self._is_station:
            station.active = self._active
            if not self._active:
                station.disconnect()
        return None

    def connect(self, ssid=None, key=None, *, bssid=None):
        self._need_station()
        if not self._active:
            raise OSError("Wifi Not Started")
        if ssid is None:
            ssid, key = station.ssid, station.key
        if isinstance(ssid, (bytes, bytearray)):
            ssid = bytes(ssid).decode()
        if isinstance(key, (bytes, bytearray)):
            key = bytes(key).decode()
        if ssid is not None and len(ssid) > 32:
            raise ValueError("invalid ssid")
        if station.ssid == ssid and station.up():
            raise OSError("Wifi Internal State Error")
        station.connect(ssid, key)

    def disconnect(self):
        self._need_station()
        station.disconnect()

    def isconnected(self):
        return self._is_station and station.up()

    def status(self, what=None):
        if what is None:
            return station.status() if self._is_station else STAT_IDLE
        if what == "rssi" and self._is_station:
            point = station.point()
            if point is None or not station.up():
                raise OSError("Wifi Not Connected")
            return point["rssi"]
        if what == "stations" and not self._is_station:
            return []
        raise ValueError("unknown status param")

    def scan(self):
        self._need_station()
        if not self._active:
            raise OSError("STA must be active")
        if not _board.wires.radio:
            return []
        return [
            (
                point["ssid"].encode(),
                bytes.fromhex(point["bssid"]),
                point["channel"],
                point["rssi"],
                AUTH_WPA2_PSK if point["key"] else AUTH_OPEN,
                False,
            )
            for point in sorted(station.seen()["access_points"], key=lambda point: -point["rssi"])
        ]

    def ifconfig(self, configuration=None):
        if configuration is None:
            if self._is_station:
                return station.address()
            return ("192.168.4.1", "255.255.255.0", "192.168.4.1", "0.0.0.0")
        if self._is_station:
            station.static = None if configuration == "dhcp" else tuple(configuration)
        return None

    def ipconfig(self, name=None, **options):
        address, netmask, gateway, _dns = self.ifconfig()
        if name is not None:
            return {
                "addr4": (address, netmask),
                "gw4": gateway,
                "dhcp4": station.static is None,
                "has_dhcp4": station.static is None and self.isconnected(),
                "addr6": [],
                "autoconf6": True,
            }[name]
        if "addr4" in options and options["addr4"] != "dhcp":
            fixed = options["addr4"]
            if isinstance(fixed, str):
                fixed = (fixed, "255.255.255.0")
            station.static = (fixed[0], fixed[1], options.get("gw4", gateway), station.dns)
        elif options.get("dhcp4") or options.get("addr4") == "dhcp":
            station.static = None
        return None

    def config(self, name=None, **options):
        if name is None:
            for key, value in options.items():
                if key == "pm":
                    station.power_save = value
                elif key == "reconnects":
                    station.reconnects = value
                elif key in ("hostname", "dhcp_hostname"):
                    hostname(value)
                else:
                    self._values[key] = value
            return None
        if name == "mac":
            mac = bytes(_board.mac)
            return mac if self._is_station else mac[:5] + bytes([(mac[5] + 1) & 255])
        if name in ("ssid", "essid") and self._is_station:
            return station.ssid or ""
        if name in ("hostname", "dhcp_hostname"):
            return hostname()
        if name == "pm":
            return station.power_save
        if name == "reconnects":
            return station.reconnects
        if name == "channel" and self._is_station:
            point = station.point()
            return point["channel"] if point else 1
        if name in self._values:
            return self._values[name]
        raise ValueError("unknown config param")

    def _need_station(self):
        if not self._is_station:
            raise OSError("STA required")
