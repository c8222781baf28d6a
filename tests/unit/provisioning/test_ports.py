"""Which ports may have a board, and which of them is meant."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from serial.tools import list_ports

from lopower.cli.errors import CommandError
from lopower.cli.main import main
from lopower_provisioning import ports
from lopower_provisioning.commands import choosing
from lopower_provisioning.errors import ProvisioningError
from lopower_provisioning.ports import Port


def comport(device: str, vid: int | None, serial_number: str = "", product: str = "UART") -> SimpleNamespace:
    return SimpleNamespace(device=device, vid=vid, serial_number=serial_number, manufacturer=None, product=product)


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    found: list[SimpleNamespace] = []
    monkeypatch.setattr(list_ports, "comports", lambda: found)
    return found


def test_what_is_a_board_and_its_mac(attached: list[SimpleNamespace]) -> None:
    """Built-in ports and other makers' devices are none; the chips' own USB says the MAC."""
    attached += [
        comport("/dev/ttyUSB0", 0x10C4, "0001"),
        comport("/dev/ttyS0", None),
        comport("/dev/ttyACM1", 0x1234, "modem"),
        comport("/dev/ttyACM0", 0x303A, "F4:12:FA:00:00:01", "USB JTAG"),
        comport("COM7", 0x1A86, "F4:12:FA:00:00:02"),
    ]
    assert ports.attached() == [
        Port("/dev/ttyACM0", "Espressif USB JTAG", "f4:12:fa:00:00:01"),
        Port("/dev/ttyUSB0", "Silicon Labs UART", None),
        Port("COM7", "WCH UART", None),
    ]


def test_the_only_one_or_a_question(attached: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="no board is attached"):
        choosing.choose_port()
    attached.append(comport("COM3", 0x10C4))
    assert choosing.choose_port() == "COM3"
    attached.append(comport("COM4", 0x10C4))
    monkeypatch.setattr(choosing, "on_terminal", lambda: False)
    with pytest.raises(CommandError, match="several boards: COM3, COM4"):
        choosing.choose_port()
    monkeypatch.setattr(choosing, "on_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "2")
    assert choosing.choose_port() == "COM4"
    monkeypatch.setattr("builtins.input", lambda question: "3")
    with pytest.raises(CommandError, match="none of them"):
        choosing.choose_port()


def test_no_board_is_told_first(
    attached: list[SimpleNamespace], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whoever has forgotten the cable is not asked for a Wi-Fi."""
    assert main(["flash", "--state-dir", str(tmp_path)]) == 2
    assert "no board is attached" in capsys.readouterr().err


def test_by_mac(attached: list[SimpleNamespace]) -> None:
    attached.append(comport("/dev/ttyACM0", 0x303A, "F4:12:FA:00:00:01"))
    assert choosing.ports_by_mac({"f4:12:fa:00:00:01"}, set()) == {"f4:12:fa:00:00:01": "/dev/ttyACM0"}
    with pytest.raises(ProvisioningError, match="f4:12:fa:00:00:09 is not attached"):
        choosing.ports_by_mac({"f4:12:fa:00:00:09"}, set())


def test_names_of_other_systems_are_left_to_their_opening() -> None:
    for name in ("COM3", r"\\.\COM12", "rfc2217://host:4000", "socket://host:4000"):
        ports.check_right(name)
