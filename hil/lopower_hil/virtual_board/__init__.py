"""A board without hardware: the ROM's bootloader that esptool flashes, and the real MicroPython on what was flashed."""

from lopower_hil.virtual_board.board import AccessPoint, Board, BoardConfig, BoardError, State

__all__ = ["AccessPoint", "Board", "BoardConfig", "BoardError", "State"]
