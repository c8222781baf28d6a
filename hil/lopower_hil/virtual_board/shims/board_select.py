"""`select`: the ESP32 port has the function, too."""

from select import POLLERR, POLLHUP, POLLIN, POLLOUT, poll


def select(readers, writers, errors=(), timeout=None):
    """What of each is ready, within `timeout` seconds."""
    poller = poll()
    wanted = []
    for event, objects in ((POLLIN, readers), (POLLOUT, writers), (0, errors)):
        for thing in objects:
            for known in wanted:
                if known[0] is thing:
                    known[1] |= event
                    break
            else:
                wanted.append([thing, event])
    for thing, events in wanted:
        poller.register(thing, events)
    ready = poller.poll(-1 if timeout is None else int(timeout * 1000))

    def among(objects, mask):
        return [thing for thing in objects if any(found[0] is thing and found[1] & mask for found in ready)]

    return (
        among(readers, POLLIN | POLLHUP | POLLERR),
        among(writers, POLLOUT | POLLERR),
        among(errors, POLLERR),
    )
