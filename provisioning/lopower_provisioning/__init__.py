"""Turn a bare board into a device: image, file system and settings, written to its flash in one pass.

Needs the extra `flash`. esptool, which is GPL-2.0-or-later, is imported by `flasher` alone, and only when a board is
connected.
"""
