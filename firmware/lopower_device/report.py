"""What `status` tells."""

import gc

from . import addresses, ticks
from .tunnel import clock


def report(tunnel, problem):
    """A dictionary; `state` is "up", or says in words what is missing."""
    if tunnel is None:
        return {"state": problem or "not started"}
    now = clock()
    peer, stack = tunnel.peer, tunnel.stack
    session = peer.current
    drops = {}
    for counters in (peer.counters, stack.counters, tunnel.counters):
        for name, count in counters.items():
            if count:
                drops[name] = count
    return {
        "state": _state(tunnel, now),
        "proxy": tunnel.proxy.endpoints[0][0],
        "endpoint": tunnel.endpoint,
        "addresses": [addresses.format(address) for address in tunnel.proxy.addresses],
        "handshake_age": None if session is None else session.age(now) // 1000,
        "heard_ago": None if peer.last_received is None else ticks.diff(now, peer.last_received) // 1000,
        "handshake_ms": peer.round_trip,
        "rx_bytes": peer.rx_bytes,
        "tx_bytes": peer.tx_bytes,
        "connections": len(stack.connections),
        "heap_free": gc.mem_free() if hasattr(gc, "mem_free") else None,
        "heap_used": gc.mem_alloc() if hasattr(gc, "mem_alloc") else None,
        "counters": drops,
    }


def _state(tunnel, now):
    link = tunnel.network.problem() if tunnel.network is not None else None
    if link:
        return link
    if tunnel.peer.has_session(now):
        return "up"
    if tunnel.stamps.error is not None:
        return "no time stamp can be stored in flash: %s" % tunnel.stamps.error
    host, port = tunnel.proxy.endpoints[tunnel._endpoint_number]
    if tunnel.outer is None and tunnel.outer_error is not None:
        return "the name %s is not resolved, or there is no network: %s" % (host, tunnel.outer_error)
    if tunnel.peer.static.static_static is None:
        return "preparing keys"
    if tunnel.outer_error is not None:
        return "nobody listens at %s:%d: %s" % (host, port, tunnel.outer_error)
    sent = tunnel.peer.counters["initiations_sent"]
    if sent < 2:
        return "handshake under way with %s:%d" % (host, port)
    return (
        "no answer from %s:%d after %d handshakes: a firewall or captive portal on the way, or a key that the proxy "
        "does not know" % (host, port, sent)
    )
