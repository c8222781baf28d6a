"""What lies between the device and a proxy that does not answer, tried out over TCP; loaded for the one call alone.

A proxy answers an unknown key with silence, as WireGuard must; so does a firewall. What tells them apart is whether
anything else of that address answers: a refused connection comes from its host, a web page from whoever is in between.
"""

from . import addresses, report
from .sockets import _unpack, original

TIMEOUT = 4
_UNKNOWN = (
    "WireGuard does not answer there: the proxy does not know this device's key, or has seen a newer time stamp of it "
    "(both are in its log), or the key of the proxy in the settings is not its own; or UDP alone is blocked"
)


def diagnose(tunnel, problem):
    """A text. Takes up to TIMEOUT seconds and the time of a resolver."""
    found = report.report(tunnel, problem)
    if found["cause"] not in ("silent", "lost", "captive portal", "handshake"):
        return found["state"]
    host, port = tunnel.proxy.endpoints[tunnel._endpoint_number]
    try:
        address = original.getaddrinfo(host, 80, 0, original.SOCK_STREAM)[0]
    except OSError as error:
        return "the name %s is not resolved: %r" % (host, error)
    name = host
    if not addresses.is_address(host):
        name = "%s (%s)" % (host, _unpack(address[-1])[0])
    return "%s: %s" % (name, _probe(address, host))


def _probe(address, host):
    link = original.socket(address[0], original.SOCK_STREAM)
    try:
        link.settimeout(TIMEOUT)
        try:
            link.connect(address[-1])
        except OSError as error:
            if error.errno in (104, 111):  # ECONNRESET, ECONNREFUSED
                return "its host answers. " + _UNKNOWN
            return "nothing answers: it is down, or a firewall lets nothing through (%r)" % error
        try:
            link.write(b"GET / HTTP/1.0\r\nHost: " + host.encode() + b"\r\n\r\n")
            answer = link.recv(512)
        except OSError:
            answer = b""
    finally:
        link.close()
    head = answer.lower()
    code = head[9:12]
    if code == b"511" or (code[:1] == b"3" and b"\nlocation:" in head and host.encode() not in head):
        return "a web page of somebody else answers in its place: a captive portal, where one has to log in"
    return "its host answers. " + _UNKNOWN
