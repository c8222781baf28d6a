"""LOPOWER: Little Opinionated Proxy Over Wireguard-encrypted Routes."""

__version__ = "0.1.0"
