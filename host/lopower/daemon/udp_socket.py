"""The outer UDP socket: datagrams in batches both ways, with the kernel's help where it has any.

On Linux one `recvmsg_into` takes up to 64 KB of a sender's datagrams at once (UDP_GRO) and one `sendmsg` leaves as many
(UDP_SEGMENT); PKTINFO tells which of our addresses was asked, so that the answer leaves from it. Each of these is an
offer: without it the same code handles batches of one datagram, and the kernel chooses the source address.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lopower.daemon.arrivals import SLOT, SLOTS, Arrivals
from lopower.wire.datagrams import DatagramBatch, Endpoint

MAX_ERRORS: Final = 64  # in a row of receptions, before something else has its turn
BUFFER_BYTES: Final = 8 << 20
# What waits while the kernel's send buffer is full: we may be faster than the link. More is dropped, as routers do.
MAX_WAITING_BYTES: Final = 4 << 20
MAX_SEGMENTS: Final = 64  # UDP_MAX_SEGMENTS of the oldest kernels with UDP_SEGMENT
MAX_GSO_BYTES: Final = 65_487  # 65,535 less the IPv6 and UDP headers
# Peers' addresses and ours, in the kernel's form and the cores'; anybody can send from many, so it is bounded.
MAX_CACHED_ENDPOINTS: Final = 16_384

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_LINUX: Final = sys.platform == "linux"


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketFeatures:
    """What of the kernel's help to use. False leaves it off even where the kernel has it."""

    gro: bool = True
    gso: bool = True
    pktinfo: bool = True


class UdpSocket:
    """One bound, non-blocking UDP socket; IPv6 and IPv4 at once if `host` is empty or `::`.

    Attributes:
        features: what is really in use, after asking the kernel.
        port: the bound port.
        counters: receive errors, datagrams dropped by reason.
        waiting_bytes: what waits for the kernel's send buffer.
        arrivals: what was received and not processed.
    """

    def __init__(self, host: str, port: int, features: SocketFeatures, want_write: Callable[[bool], None]) -> None:
        """Bind.

        Args:
            host: our address in text; empty or `::` for every address of both versions.
            port: 0 lets the kernel choose.
            features: the kernel's help that may be used.
            want_write: called with True when the kernel's buffer is full, with False once all that waited has left;
                between the two the owner calls `flush` whenever the socket is writable.

        Raises:
            OSError: the address cannot be bound (EADDRINUSE, EADDRNOTAVAIL, EACCES).
        """
        self.counters: Counter[str] = Counter()
        self.waiting_bytes = 0
        self._waiting: deque[tuple[bytes, int, Endpoint]] = deque()
        self._want_write = want_write
        self._socket = _bind(host, port)
        self._v6 = self._socket.family == socket.AF_INET6
        self.port: int = self._socket.getsockname()[1]
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            if not (_LINUX and self._set(socket.SOL_SOCKET, forced, BUFFER_BYTES)):
                self._set(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        self.features = SocketFeatures(
            gro=features.gro and _LINUX and self._set(_SOL_UDP, _UDP_GRO, 1),
            gso=features.gso and _LINUX and self._set(_SOL_UDP, _UDP_SEGMENT, 0),
            pktinfo=features.pktinfo and self._ask_for_pktinfo(),
        )
        self._gso = self.features.gso
        self.arrivals = Arrivals()
        self._slots = [self.arrivals.batch.view[at : at + SLOT] for at in range(0, SLOTS * SLOT, SLOT)]
        self._ancillary_bytes = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
        self._endpoints: dict[tuple[object, bytes], Endpoint] = {}
        self._destinations: dict[Endpoint, tuple[tuple[str, int] | tuple[str, int, int, int], list[_Ancillary]]] = {}

    def fileno(self) -> int:
        """The descriptor, for the loop to watch."""
        return self._socket.fileno()

    def release_unused(self) -> None:
        """Give up what the last batches occupied; not within a turn."""
        self.arrivals.discard()

    def receive(self, prompt_only: bool = False) -> tuple[DatagramBatch, bool]:
        """Take what waits in the kernel, and give what is to be processed next; True if there may be more.

        The batch is valid until the next call. With `prompt_only` it has nothing of busy senders (`Arrivals`).
        """
        arrivals = self.arrivals
        batch = arrivals.release()
        more = self._receive()
        arrivals.take(prompt_only)
        return batch, more or arrivals.has_more

    def _receive(self) -> bool:
        """Fill free slots; False if the kernel has no more."""
        arrivals = self.arrivals
        free = arrivals.free
        receive, room, slots = self._socket.recvmsg_into, self._ancillary_bytes, self._slots
        wanted = arrivals.wanted_bytes
        errors = 0
        while free and wanted > 0:
            try:
                length, ancillary, _, address = receive((slots[free[-1]],), room)
            except BlockingIOError:
                return False
            except OSError as error:
                # What ICMP reports about something we sent, or a passing lack of memory: never a reason to stop.
                self.counters[f"receive_{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
                errors += 1
                if errors == MAX_ERRORS:
                    return False
                continue
            if not length:
                self.counters["empty"] += 1
                errors += 1
                if errors == MAX_ERRORS:
                    return True
                continue
            segment = length
            info = b""
            for level, kind, data in ancillary:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    segment = int.from_bytes(data, sys.byteorder)
                else:
                    info = data
            endpoint = self._endpoints.get((address, info)) or self._endpoint(address, info)
            arrivals.add(length, segment, endpoint)
            wanted -= length
        return True

    def transmit(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint) -> None:
        """Send `datagrams`, cut every `segment_size` bytes; the order of calls is the order on the wire."""
        self.arrivals.count(endpoint, len(datagrams))
        if self._waiting:
            self._wait(datagrams, segment_size, endpoint)
            return
        sent = self._send(datagrams, segment_size, endpoint)
        if sent < len(datagrams):
            self._wait(datagrams[sent:], segment_size, endpoint)

    def flush(self) -> None:
        """Send what waited for the kernel's buffer."""
        while self._waiting:
            data, segment_size, endpoint = self._waiting.popleft()
            sent = self._send(memoryview(data), segment_size, endpoint)
            self.waiting_bytes -= sent
            if sent < len(data):
                self._waiting.appendleft((data[sent:], segment_size, endpoint))
                return
        self._want_write(False)

    def close(self) -> None:
        """Close; what still waited is dropped."""
        if self._waiting:
            self._want_write(False)
        self._waiting.clear()
        self._socket.close()

    def _wait(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint) -> None:
        if self.waiting_bytes + len(datagrams) > MAX_WAITING_BYTES:
            self.counters["send_buffer_full"] += -(-len(datagrams) // segment_size)
            return
        if not self._waiting:
            self._want_write(True)
        self._waiting.append((bytes(datagrams), segment_size, endpoint))
        self.waiting_bytes += len(datagrams)

    def _send(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint) -> int:
        """Bytes that left or are lost for good; fewer than all only if the kernel's buffer is full."""
        address, ancillary = self._destinations.get(endpoint) or self._destination(endpoint)
        total = len(datagrams)
        most = segment_size
        if self._gso and total > segment_size:
            most = min(MAX_SEGMENTS, MAX_GSO_BYTES // segment_size) * segment_size
        at = 0
        while at < total:
            piece = datagrams[at : at + most] if total - at > most or at else datagrams
            control = ancillary
            if len(piece) > segment_size:
                control = [*ancillary, (_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", segment_size))]
            try:
                self._socket.sendmsg((piece,), control, 0, address)
            except BlockingIOError:
                return at
            except OSError as error:
                if len(piece) > segment_size:
                    # EIO: a device without checksum offload; EINVAL and EMSGSIZE: segments longer than the path's MTU.
                    if error.errno == errno.EIO:
                        self._gso = False
                    most = segment_size
                    continue
                if ancillary and error.errno in (errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
                    # The address that was asked is ours no longer.
                    ancillary = []
                    self._destinations[endpoint] = (address, ancillary)
                    continue
                self.counters[f"send_{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
            at += len(piece)
        return total

    def _set(self, level: int, option: int, value: int) -> bool:
        try:
            self._socket.setsockopt(level, option, value)
        except OSError:
            return False
        return True

    def _ask_for_pktinfo(self) -> bool:
        if not _LINUX:
            return False
        if self._v6:
            return self._set(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return self._set(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def _endpoint(self, address: tuple[str, int] | tuple[str, int, int, int], info: bytes) -> Endpoint:
        host = address[0]
        if self._v6 and host.startswith("::ffff:") and "." in host:
            host = host[7:]
        elif "%" in host:
            host = host.partition("%")[0]
        local = b""
        if info:
            local = info[:16].removeprefix(_V4_MAPPED) if self._v6 else info[4:8]
        scope = address[3] if len(address) == 4 else 0
        endpoint = Endpoint(host, address[1], scope, local)
        if len(self._endpoints) >= MAX_CACHED_ENDPOINTS:
            self._endpoints.clear()
        self._endpoints[address, info] = endpoint
        return endpoint

    def _destination(self, endpoint: Endpoint) -> tuple[tuple[str, int] | tuple[str, int, int, int], list[_Ancillary]]:
        host, port, scope_id, local = endpoint
        address: tuple[str, int] | tuple[str, int, int, int] = (host, port)
        ancillary: list[_Ancillary] = []
        if self._v6:
            address = (host if ":" in host else f"::ffff:{host}", port, 0, scope_id)
            if local and self.features.pktinfo:
                packed = local if len(local) == 16 else _V4_MAPPED + local
                ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed + struct.pack("=I", scope_id))]
        elif local and self.features.pktinfo:
            ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4x", 0, local))]
        if len(self._destinations) >= MAX_CACHED_ENDPOINTS:
            self._destinations.clear()
        self._destinations[endpoint] = (address, ancillary)
        return address, ancillary


_Ancillary = tuple[int, int, bytes]


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket of the right family; both families at once where the host has IPv6."""
    everything = host in ("", "::")
    family = socket.AF_INET6 if everything or ":" in host else socket.AF_INET
    try:
        bound = socket.socket(family, socket.SOCK_DGRAM)
    except OSError:
        if not everything:
            raise
        family, host = socket.AF_INET, "0.0.0.0"  # a kernel without IPv6
        bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everything else 1)
        try:
            bound.bind((host or "::", port))
        except OSError as error:
            if not (everything and family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL):
                raise
            bound.close()  # IPv6 is compiled in but switched off
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.setblocking(False)
            bound.bind(("0.0.0.0", port))
    except OSError:
        bound.close()
        raise
    return bound
