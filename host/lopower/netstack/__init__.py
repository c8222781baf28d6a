"""TCP/IP for a terminating proxy, without I/O: packets in batches on one side, flows on the other."""
