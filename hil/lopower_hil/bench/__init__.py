"""The bench: boards for tests of firmware, whatever they are: virtual, attached to this machine, or in a lab.

What the fixtures of the pytest plugin (lopower_hil.bench.pytest_plugin) give:

    from lopower_hil.bench import Board, Proxy, TailnetPeer
"""

from lopower_hil.bench.board import Board
from lopower_hil.bench.errors import BenchError
from lopower_hil.bench.proxy import Proxy
from lopower_hil.bench.surroundings import Switch, WifiNetwork
from lopower_hil.bench.tailnet import TailnetPeer

__all__ = ["BenchError", "Board", "Proxy", "Switch", "TailnetPeer", "WifiNetwork"]
