"""What `status` tells."""

import gc

from . import addresses, ticks
from .counters import COOKIE_REPLIES_RECEIVED, INITIATIONS_SENT, RESPONSE_NOT_AUTHENTIC
from .tunnel import clock

_NAMES = (
    "initiations_sent responses_received initiations_received responses_sent handshakes_completed "
    "cookie_replies_received malformed wrong_mac1 unknown_index not_authentic replayed timestamp_not_newer "
    "rate_limited session_expired source_not_allowed malformed_packet queue_dropped no_timestamp "
    "response_not_authentic fragments not_for_us unknown_protocol malformed_tcp malformed_udp no_socket "
    "udp_queue_dropped too_many_gaps backlog_full retransmits fast_retransmits icmp_ignored "
    "no_memory not_loaded outer_errors outer_oversized endpoint_changes longest_turn"
)
"""Of what `counters` counts, in its order."""


def report(tunnel, problem):
    """A dictionary. `state` is "up", or says in words what is missing; `cause` says it in one or two, and is None if up.

    The causes: "not started", "settings", those of Wi-Fi ("no access point", "wrong password", "no lease", "refused",
    "connecting"), "flash", "heap", "name", "no network", "keys", "handshake" (under way), "idle", "nobody listens", "captive portal",
    "preshared key", "lost" (it has answered before) and "silent".
    """
    if tunnel is None:
        return {"state": problem or "not started", "cause": "settings" if problem else "not started"}
    now = clock()
    peer, stack = tunnel.peer, tunnel.stack
    session = peer.current
    drops = {}
    for place, name in enumerate(_NAMES.split()):
        if tunnel.counters[place]:
            drops[name] = tunnel.counters[place]
    cause, state = _state(tunnel, now)
    return {
        "state": state,
        "cause": cause,
        "proxy": tunnel.proxy.endpoints[0][0],
        "endpoint": tunnel.endpoint,
        "addresses": [addresses.format(address) for address in tunnel.proxy.addresses],
        "handshake_age": None if session is None else session.age(now) // 1000,
        "heard_ago": None if peer.last_received is None else ticks.diff(now, peer.last_received) // 1000,
        "rtt_ms": peer.round_trip,
        "rx_bytes": peer.rx_bytes,
        "tx_bytes": peer.tx_bytes,
        "connections": len(stack.connections),
        "heap_free": gc.mem_free() if hasattr(gc, "mem_free") else None,
        "heap_used": gc.mem_alloc() if hasattr(gc, "mem_alloc") else None,
        "counters": drops,
    }


def _state(tunnel, now):
    if tunnel.wlan is not None and not tunnel.wlan.isconnected():
        return tunnel.station().problem()
    peer = tunnel.peer
    if peer.has_session(now):
        return None, "up"
    if tunnel.stamps.error is not None:
        return "flash", "no time stamp can be stored in flash: %s" % tunnel.stamps.error
    if isinstance(peer.error, MemoryError):
        return "heap", "no memory is left for a handshake: the program holds too much"
    if peer.error is not None:
        return "flash", "what a handshake needs is not loaded: %s" % peer.error
    host, port = tunnel.proxy.endpoints[tunnel._endpoint_number]
    error = tunnel.outer_error
    if tunnel.outer is None and error is not None:
        if addresses.is_address(host):
            return "no network", "%s cannot be reached, there is no network: %s" % (host, error)
        return "name", "the name %s is not resolved: %s" % (host, error)
    if peer.static.static_static is None:
        return "keys", "preparing keys"
    if error is not None:
        return "nobody listens", "nobody listens at %s:%d: %s" % (host, port, error)
    sent = peer.counters[INITIATIONS_SENT] - peer.answered
    if not sent and peer.last_received is not None:
        return "idle", "the session has ended, and nothing was sent since"
    if sent < 2:
        return "handshake", "handshake under way with %s:%d" % (host, port)
    return _silence(tunnel, now, "%s:%d" % (host, port), sent)


def _silence(tunnel, now, name, sent):
    """Handshakes are not answered: what is known of why. WireGuard answers a stranger's key with nothing at all."""
    peer = tunnel.peer
    if peer.last_received is not None:
        return "lost", "%s has not answered %d handshakes, but did %d s ago: it, or the network on the way, is down" % (
            name, sent, ticks.diff(now, peer.last_received) // 1000,
        )  # fmt: skip
    if peer.counters[RESPONSE_NOT_AUTHENTIC]:
        return "preshared key", name + " answers, but with another preshared key than the one in the settings"
    if tunnel.wlan is not None and tunnel.remote and not addresses.is_address(tunnel.endpoint[0]):
        from .sockets import _unpack

        if _unpack(tunnel.remote)[0] == tunnel.wlan.ifconfig()[2]:  # the network's router
            return "captive portal", "the name of %s leads to the Wi-Fi's own router: a captive portal" % name
    if peer.counters[COOKIE_REPLIES_RECEIVED]:
        return "silent", name + (
            " is there and under load, but answers no handshake: it does not know this device's key, or has seen a "
            "newer time stamp of it"
        )
    return "silent", (
        "no answer from %s to %d handshakes, and no error: a firewall or captive portal on the way, the proxy is down, "
        "its key or this device's is another than in the settings; lopower.diagnose() tries what it is" % (name, sent)
    )
