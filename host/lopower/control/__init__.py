"""The control API as its callers see it: the client and the words on the wire; knows nothing of the daemon."""
