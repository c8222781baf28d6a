"""IP addresses as packed bytes, their texts, and sets of networks."""

from . import kernels as k


def parse(text):
    """4 or 16 bytes of an address. Raises ValueError for anything else."""
    if ":" not in text:
        parts = text.split(".")
        numbers = [int(part) for part in parts if part and part.isdigit()]
        if len(parts) != 4 or len(numbers) != 4 or max(numbers) > 255:
            raise ValueError("not an address: " + text)
        return bytes(numbers)
    head, gap, tail = text.partition("::")
    groups = [part for part in head.split(":") if part]
    after = [part for part in tail.split(":") if part]
    missing = 8 - len(groups) - len(after)
    if (gap and missing < 1) or (not gap and missing):
        raise ValueError("not an address: " + text)
    packed = b""
    for group in groups + ["0"] * missing + after:
        value = int(group, 16)
        if not 0 <= value <= 0xFFFF or len(group) > 4:
            raise ValueError("not an address: " + text)
        packed += bytes((value >> 8, value & 0xFF))
    return packed


def format(address):
    """The text of a packed address."""
    if len(address) == 4:
        return ".".join([str(byte) for byte in address])
    groups = [address[i] << 8 | address[i + 1] for i in range(0, 16, 2)]
    best, length = 0, 1  # RFC 5952 section 4.2: the longest run of zeros, if longer than one
    start = 0
    for i in range(9):
        if i == 8 or groups[i]:
            if i - start > length:
                best, length = start, i - start
            start = i + 1
    if length < 2:
        return ":".join(["%x" % group for group in groups])
    head = ":".join(["%x" % group for group in groups[:best]])
    return head + "::" + ":".join(["%x" % group for group in groups[best + length :]])


def is_address(text):
    """Whether `parse` would take it."""
    try:
        parse(text)
        return True
    except ValueError:
        return False


class Record:
    """A set of named values."""


class Networks:
    """A few networks, such as AllowedIPs: a linear search is right for a handful."""

    def __init__(self, texts):
        """Raises ValueError for a text that is neither an address nor a network."""
        self._networks = []
        for text in texts:
            address, _, bits = text.partition("/")
            packed = parse(address.strip())
            length = int(bits) if bits else 8 * len(packed)
            if not 0 <= length <= 8 * len(packed):
                raise ValueError("not a network: " + text)
            self._networks.append((packed, length, len(packed)))

    def contains(self, packet, offset, version):
        """Whether the address at `offset` lies in one of them; `version` is 4 or 6."""
        size = 4 if version == 4 else 16
        for network, bits, length in self._networks:
            if length == size and not k.differ(network, 0, packet, offset, bits >> 3):
                rest = bits & 7
                if not rest or not (network[bits >> 3] ^ packet[offset + (bits >> 3)]) >> (8 - rest):
                    return True
        return False

    def has(self, address):
        """Whether a packed address lies in one of them."""
        return self.contains(address, 0, 4 if len(address) == 4 else 6)
