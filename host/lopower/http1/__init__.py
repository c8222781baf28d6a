"""HTTP/1.1 on asyncio: a server and a client of unix sockets, as small as what uses them.

h11 knows the protocol; here are its sockets, its tasks and its limits. A general framework costs 14 MB of memory, which
a proxy on a small machine would spend on an API that is asked a few times a day.
"""
