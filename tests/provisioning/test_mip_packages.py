"""Packages for the board from a server laid out as micropython-lib's index."""

import json
from collections.abc import Iterator

import pytest

from lopower_provisioning import mip
from lopower_provisioning.errors import DownloadError
from tests.support.micropython_site import Site, micropython_site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with micropython_site() as made:
        monkeypatch.setenv("LOPOWER_MICROPYTHON_URL", made.url)
        yield made


def test_a_package_and_what_it_needs(site: Site) -> None:
    """Needs that go round in a circle end."""
    site.add_package("umqtt.robust", {"umqtt/robust.mpy": b"robust"}, needs=("umqtt.simple",))
    site.add_package("umqtt.simple", {"umqtt/simple.mpy": b"simple"}, needs=("umqtt.robust",))
    assert mip.packages(("umqtt.robust", "umqtt.simple")) == {
        "lib/umqtt/robust.mpy": b"robust",
        "lib/umqtt/simple.mpy": b"simple",
    }


def test_an_url(site: Site) -> None:
    """A package.json with files beside it, and a single module."""
    site.files["/mine/package.json"] = json.dumps({"urls": [["mine/a.py", "a.py"]], "version": "1"}).encode()
    site.files["/mine/a.py"] = b"A = 1\n"
    assert mip.packages((f"{site.url}/mine/", f"{site.url}/mine/a.py")) == {
        "lib/mine/a.py": b"A = 1\n",
        "lib/a.py": b"A = 1\n",
    }


def test_a_file_that_is_not_what_its_hash_says(site: Site) -> None:
    site.add_package("one", {"one.mpy": b"one"})
    place = next(path for path in site.files if "/file/" in path)
    site.files[place] = b"two"
    with pytest.raises(DownloadError, match="not what its hash says"):
        mip.packages(("one",))


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"hashes": 1}', b'{"hashes": [["a"]]}', b'{"hashes": [["a", "../x"]]}']
)
def test_an_index_that_answers_nonsense(site: Site, answer: bytes) -> None:
    site.files["/pi/v2/package/6/odd/latest.json"] = answer
    with pytest.raises(DownloadError):
        mip.packages(("odd",))


def test_an_index_that_leads_on_and_on(site: Site) -> None:
    for number in range(mip.MAX_PACKAGES + 1):
        site.add_package(f"p{number}", {}, needs=(f"p{number + 1}",))
    with pytest.raises(DownloadError, match="needs more than"):
        mip.packages(("p0",))


@pytest.mark.parametrize("name", ["../../etc", "a b", "github:../x", ""])
def test_what_is_no_package(site: Site, name: str) -> None:
    with pytest.raises(DownloadError, match="is no"):
        mip.packages((name,))
    assert site.asked == []


def test_what_is_not_there(site: Site) -> None:
    with pytest.raises(DownloadError, match="404"):
        mip.packages(("none",))
