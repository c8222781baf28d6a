"""A test that lacks something is skipped by name, and fails where everything has to be there."""

from __future__ import annotations

import pytest

from tests.support.requirements import require_module, require_program


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    monkeypatch.setenv("LOPOWER_REQUIRE_ALL", "1" if strict else "0")
    outcome = pytest.fail.Exception if strict else pytest.skip.Exception
    with pytest.raises(outcome, match="no-such-program"):
        require_program("no-such-program")
    with pytest.raises(outcome, match="no_such_module"):
        require_module("no_such_module")


def test_what_is_there_is_returned() -> None:
    assert require_program("sh").endswith("/sh")
    assert require_module("dnslib").DNSRecord
