"""lopower.json: what it may hold, and in words what is wrong with it.

Read once, at the start: what it returns refers to nothing here, so that the module can go.
"""

import json
from binascii import a2b_base64

from .addresses import Networks, Record, parse

DEFAULT_PORT = 51820
MAX_ENDPOINTS = 8
MAX_SIZE = 8192
"""Bytes of a file: what is longer is no settings file, and would not fit into the heap."""

OWN = ("private_key", "remote_repl")
"""What no update changes."""


class SettingsError(Exception):
    """A text for the user."""


def _proxy(entry, private_key):
    """One proxy: keys, our addresses there, its endpoints as (name or address, port)."""
    proxy = Record()
    proxy.private_key = _key(entry, "private_key", private_key)
    proxy.public_key = _key(entry, "public_key")
    if proxy.private_key is None:
        raise SettingsError("private_key is missing")
    if proxy.public_key is None:
        raise SettingsError("public_key of a proxy is missing")
    proxy.preshared_key = _key(entry, "preshared_key")
    proxy.addresses = [_packed(text.partition("/")[0]) for text in _texts(entry, "addresses")]
    if not proxy.addresses:
        raise SettingsError("addresses of a proxy are missing")
    proxy.dns = [_packed(text) for text in _texts(entry, "dns")]
    proxy.endpoints = [_endpoint(text) for text in _texts(entry, "endpoints")][:MAX_ENDPOINTS]
    if not proxy.endpoints:
        raise SettingsError("endpoints of a proxy are missing")
    try:
        proxy.allowed = Networks(_texts(entry, "allowed_ips"))
    except ValueError as error:
        raise SettingsError("allowed_ips: " + str(error)) from None
    proxy.mtu = _number(entry, "mtu", 1420, 576, 1420)
    proxy.persistent_keepalive = 1000 * _number(entry, "persistent_keepalive", 25, 0, 65535)
    return proxy


def _settings(content):
    if not isinstance(content, dict):
        raise SettingsError("the file is not a JSON object")
    proxies = content.get("proxies")
    if not isinstance(proxies, list) or not proxies or not all(isinstance(entry, dict) for entry in proxies):
        raise SettingsError("proxies must be a list of at least one")
    settings = Record()
    private_key = _key(content, "private_key")
    settings.proxies = [_proxy(entry, private_key) for entry in proxies]
    settings.wifi = content.get("wifi") or []
    if not isinstance(settings.wifi, list) or not all(isinstance(n, dict) and "ssid" in n for n in settings.wifi):
        raise SettingsError("wifi must be a list of networks, each with an ssid")
    for network in settings.wifi:
        _check_network(network)
    settings.country = _text(content, "country", 2, 2)
    settings.hostname = _text(content, "hostname", 1, 32)
    settings.sntp = content.get("sntp", True)
    if not isinstance(settings.sntp, bool):
        raise SettingsError("sntp must be true or false")
    settings.everything = content.get("tunnel") == "all"
    if content.get("tunnel", "allowed") not in ("allowed", "all"):
        raise SettingsError('tunnel must be "allowed" or "all"')
    settings.timer = content.get("timer", True)  # which is: one that the port has
    if settings.timer is not None and settings.timer is not True and not isinstance(settings.timer, int):
        raise SettingsError("timer must be a number or null")
    settings.written = _number(content, "written", 0, 0, 1 << 40)
    settings.remote_repl = content.get("remote_repl", False)
    if not isinstance(settings.remote_repl, bool):
        raise SettingsError("remote_repl must be true or false")
    return settings


def _check_network(network):
    """One of `wifi`: what the board's driver would refuse, or cut short without a word."""
    _text(network, "ssid", 1, 32)
    if network.get("password") == "":
        network["password"] = None  # an open network
    _text(network, "password", 8, 64)
    _number(network, "priority", 0, -1000, 1000)
    if network.get("priority", 0) is None:
        del network["priority"]
    for name in ("address", "netmask", "gateway", "dns"):
        if network.get(name) is None:
            network.pop(name, None)
        elif not isinstance(network[name], str) or len(_packed(network[name])) != 4:
            raise SettingsError("%s of a wifi network must be an IPv4 address" % name)
    if "address" in network and not ("netmask" in network and "gateway" in network):
        raise SettingsError("a wifi network with an address needs netmask and gateway")


def load(path, changes=None):
    """The settings in a file, with those in place of its own that another one may have, of an update.

    The private key and `remote_repl` are the first one's. Raises SettingsError, whose text names the file and the fault.
    """
    content = _read(path)
    try:
        if changes is not None and isinstance(content, dict):
            path = changes
            newer = _read(changes)
            if not isinstance(newer, dict):
                raise SettingsError("the file is not a JSON object")
            for name in newer:
                if name not in OWN:
                    content[name] = newer[name]
        return _settings(content)
    except SettingsError as error:
        text = str(error)
        raise SettingsError(text if text.startswith(path) else path + ": " + text) from None


def _read(path):
    try:
        with open(path) as file:
            text = file.read(MAX_SIZE + 1)
            if len(text) > MAX_SIZE:
                raise SettingsError(path + " is too long")
            return json.loads(text)
    except OSError:
        raise SettingsError(path + " is missing") from None
    except ValueError:
        raise SettingsError(path + " is not whole, or no JSON") from None
    except (MemoryError, RuntimeError):
        raise SettingsError(path + " does not fit into memory") from None


def _key(entry, name, default=None):
    value = entry.get(name)
    if value is None:
        return default
    try:
        key = a2b_base64(value)
    except (ValueError, TypeError):
        key = b""
    if len(key) != 32:
        raise SettingsError(name + " must be 32 bytes in base64")
    return key


def _text(entry, name, least, greatest):
    value = entry.get(name)
    if value is not None and (not isinstance(value, str) or not least <= len(value.encode()) <= greatest):
        raise SettingsError("%s must be a text of %d to %d bytes" % (name, least, greatest))
    return value


def _texts(entry, name):
    value = entry.get(name) or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise SettingsError(name + " must be a list of texts")
    return value


def _packed(text):
    try:
        return parse(text)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _number(entry, name, default, least, greatest):
    value = entry.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= greatest:
        raise SettingsError("%s must be a number from %d to %d" % (name, least, greatest))
    return value


def _endpoint(text):
    host, separator, port = text.rpartition(":")
    if not separator or "]" in port or (":" in host and not host.startswith("[")):
        host, port = text, str(DEFAULT_PORT)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError("not an endpoint: " + text)
    return host, int(port)
