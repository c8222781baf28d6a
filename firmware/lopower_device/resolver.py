"""A stub resolver (RFC 1035): its messages, and the question. Loaded for each name that is not in the cache."""

from . import ticks

A, AAAA = 1, 28
ATTEMPTS, TIMEOUT = 3, 2_000
MAX_CACHED = 8
"""Names that are remembered; the one that ends first makes room."""
MAX_TTL = 3600
NOT_FOUND, FAILED = 0, -1


def query(identifier, name, kind):
    """A question for one name. Raises ValueError for a name that cannot be one."""
    message = bytes((identifier >> 8, identifier & 0xFF)) + b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    for label in name.rstrip(".").split("."):
        encoded = label.encode()
        if not 0 < len(encoded) < 64:
            raise ValueError("not a name: " + name)
        message += bytes((len(encoded),)) + encoded
    if len(message) > 265:
        raise ValueError("not a name: " + name)
    return message + bytes((0, 0, kind, 0, 1))


def answer(question, message, kind):
    """(packed addresses, seconds they are valid), NOT_FOUND or FAILED; None if it is no answer to the question."""
    end = len(question)
    if len(message) < end or message[:2] != question[:2] or not message[2] & 0x80:
        return None
    if message[4:6] != b"\0\1" or message[12:end].lower() != question[12:end].lower():
        return None
    code = message[3] & 15
    if code == 3:
        return NOT_FOUND
    if code or message[2] & 2:  # an error, or cut short
        return FAILED
    found, ttl = [], MAX_TTL
    at = end
    for _ in range(min(message[6] << 8 | message[7], 32)):
        at = _skip_name(message, at)
        if at is None or at + 10 > len(message):
            return FAILED
        length = message[at + 8] << 8 | message[at + 9]
        seconds = MAX_TTL if message[at + 4] or message[at + 5] else message[at + 6] << 8 | message[at + 7]
        data = at + 10
        at = data + length
        if at > len(message):
            return FAILED
        if message[data - 10] == 0 and message[data - 9] == kind and length == (4 if kind == A else 16):
            found.append(bytes(message[data:at]))
        ttl = min(ttl, seconds)
    return (found, ttl) if found else NOT_FOUND


def _skip_name(message, at):
    for _ in range(128):
        if at >= len(message):
            return None
        length = message[at]
        if length & 0xC0 == 0xC0:
            return at + 2
        if length & 0xC0:
            return None
        at += 1 + length
        if not length:
            return at
    return None


def ask(open_port, cache, entropy, clock, servers, name, kind):
    """Packed addresses by one of the tunnel's DNS servers (packed), kept in `cache`; None if there are none.

    `open_port(server)` gives a connected UDP socket.
    """
    try:
        random = entropy(2)
        question = query(random[0] << 8 | random[1], name, kind)
    except ValueError:
        return None
    for attempt in range(ATTEMPTS):
        port = None
        try:
            port = open_port(servers[attempt % len(servers)], TIMEOUT / 1000)
            port.send(question)
            while True:
                result = answer(question, port.recv(1500), kind)
                if result is not None:
                    break
        except OSError:
            continue
        finally:
            if port is not None:
                port.close()
        if result == NOT_FOUND:
            return None
        if result != FAILED:
            found, ttl = result
            now = clock()
            if len(cache) >= MAX_CACHED:
                del cache[min(cache, key=lambda entry: ticks.diff(cache[entry][1], now))]
            cache[name, kind] = (found, ticks.add(now, 1000 * min(ttl, MAX_TTL)))
            return found
    return None
