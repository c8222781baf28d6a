"""`esp32`: partitions, key-value storage in the partition `nvs`, and what a program may ask of the chip."""

import binascii
import json

import _board

WAKEUP_ALL_LOW = False
WAKEUP_ANY_HIGH = True
HEAP_DATA = 4
HEAP_EXEC = 1

_TABLE = 0x8000
_ENTRY = 32
_MAX_ENTRIES = 95


def raw_temperature():
    return 128


def mcu_temperature():
    return 42


def wake_on_ext0(pin=None, level=None):
    """Nothing ever changes a pin."""


def wake_on_ext1(pins=None, level=None):
    """Nothing ever changes a pin."""


def wake_on_touch(wake):
    """There is no touch pad."""


def gpio_deep_sleep_hold(enable):
    """Pins are not driven."""


def idf_heap_info(capabilities):
    return [(120_000, 60_000, 50_000, 40_000)]


def _entries():
    """(type, subtype, offset, size, label) of each partition."""
    entry = bytearray(_ENTRY)
    named = False
    for number in range(_MAX_ENTRIES):
        _board.flash_read(_TABLE + number * _ENTRY, entry)
        if entry[:2] != b"\xaa\x50":
            break
        offset, size = (int.from_bytes(entry[at : at + 4], "little") for at in (4, 8))
        named = named or entry[12:16] in (b"vfs\0", b"ffat")
        yield entry[2], entry[3], offset, size, bytes(entry[12:28]).split(b"\0")[0].decode()
    if not named:  # stock MicroPython makes one of what follows the last
        yield 1, 0x81, _board.wires.files_offset, _board.wires.files_size, "vfs"


class Partition:
    """A block device of 4096-byte blocks."""

    TYPE_APP = 0
    TYPE_DATA = 1
    BOOT = 0
    RUNNING = 1

    def __init__(self, which, block_size=4096):
        for entry in _entries():
            if (isinstance(which, str) and entry[4] == which) or (isinstance(which, int) and entry[0] == 0):
                break
        else:
            raise OSError(2)
        self._open(entry)

    def _open(self, entry):
        self._entry = entry
        self._region = _board.Region(entry[2], entry[3])
        self.readblocks = self._region.readblocks
        self.writeblocks = self._region.writeblocks
        self.ioctl = self._region.ioctl

    @classmethod
    def find(cls, type=0, subtype=0xFF, label=None, block_size=4096):
        found = []
        for entry in _entries():
            if entry[0] == type and subtype in (0xFF, entry[1]) and label in (None, entry[4]):
                partition = object.__new__(cls)
                partition._open(entry)
                found.append(partition)
        return found

    def info(self):
        return self._entry + (False,)

    def get_next_update(self):
        running = self._entry
        for entry in _entries():
            if entry[0] == 0 and entry[1] >= 0x10 and entry != running:
                partition = object.__new__(Partition)
                partition._open(entry)
                return partition
        raise OSError(2)

    def set_boot(self):
        raise OSError("the virtual board starts its first application only")

    @classmethod
    def mark_app_valid_cancel_rollback(cls):
        """There is no trial of an application."""


class NVS:
    """Values by key in a namespace: JSON in two sectors of `nvs` that are written in turn, each with a CRC-32."""

    _MAGIC = b"VNVS"

    def __init__(self, namespace):
        self._namespace = namespace
        self._partition = Partition("nvs")
        self._number, self._all = self._load()

    def _load(self):
        best = (0, {})
        header = bytearray(16)
        for sector in (0, 1):
            self._partition.readblocks(sector, header, 0)
            number, length, checksum = (int.from_bytes(header[at : at + 4], "little") for at in (4, 8, 12))
            if header[:4] != self._MAGIC or length > _board.BLOCK_SIZE - 16:
                continue
            text = bytearray(length)
            self._partition.readblocks(sector, text, 16)
            if binascii.crc32(text) == checksum and number > best[0]:
                best = (number, json.loads(text))
        return best

    def _get(self, key, kind):
        value = self._all.get(self._namespace, {}).get(key)
        if value is None or value[0] != kind:
            raise OSError(-0x1102, "ESP_ERR_NVS_NOT_FOUND")
        return value[1]

    def _set(self, key, kind, value):
        if len(key) > 15:
            raise OSError(-0x1109, "ESP_ERR_NVS_KEY_TOO_LONG")
        self._all.setdefault(self._namespace, {})[key] = [kind, value]

    def set_i32(self, key, value):
        self._set(key, "i32", value)

    def get_i32(self, key):
        return self._get(key, "i32")

    def set_blob(self, key, value):
        self._set(key, "blob", binascii.hexlify(value).decode())

    def get_blob(self, key, buffer):
        value = binascii.unhexlify(self._get(key, "blob"))
        buffer[: len(value)] = value
        return len(value)

    def erase_key(self, key):
        if key not in self._all.get(self._namespace, {}):
            raise OSError(-0x1102, "ESP_ERR_NVS_NOT_FOUND")
        del self._all[self._namespace][key]

    def commit(self):
        text = json.dumps(self._all).encode()
        if len(text) > _board.BLOCK_SIZE - 16:
            raise OSError(-0x1105, "ESP_ERR_NVS_NOT_ENOUGH_SPACE")
        self._number += 1
        sector = self._number & 1
        self._partition.ioctl(6, sector)
        self._partition.writeblocks(sector, text, 16)
        header = self._MAGIC
        for value in (self._number, len(text), binascii.crc32(text)):
            header += value.to_bytes(4, "little")
        self._partition.writeblocks(sector, header, 0)
