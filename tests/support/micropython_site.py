"""A server on loopback with pages, images and packages laid out as on micropython.org, and ways to be a bad one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """`url` is for LOPOWER_MICROPYTHON_URL.

    Attributes:
        files: path -> content, of everything there is.
        asked: paths in the order in which they were asked for.
        cut: paths whose answer ends halfway.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: set[str] = set()
        self.url = ""

    def add_images(self, board: str, images: dict[str, bytes]) -> None:
        """The pages that lead to a board's images; file name -> content."""
        card = f'<a class="board-card" href="{board}"><div class="board-product">{board}</div></a>'
        self.files["/download/?port=esp32"] = self.files.get("/download/?port=esp32", b"") + card.encode()
        page = "".join(
            f'<li><strong><a href="/resources/firmware/{name}">{name}</a></strong>'
            f'<a href="/resources/firmware/{name.replace(".bin", ".app-bin")}">[.app-bin]</a></li>'
            for name in images
        )
        self.files[f"/download/{board}"] = f"<html><body><ul>{page}</ul></body></html>".encode()
        for name, content in images.items():
            self.files[f"/resources/firmware/{name}"] = content

    def add_package(self, name: str, files: dict[str, bytes], needs: tuple[str, ...] = ()) -> None:
        """A package of the index."""
        hashes = []
        for path, content in files.items():
            digest = hashlib.sha256(content).hexdigest()[:8]
            hashes.append([path, digest])
            self.files[f"/pi/v2/file/{digest[:2]}/{digest}"] = content
        description = {"v": 1, "version": "1.0", "hashes": hashes, "deps": [[need, "latest"] for need in needs]}
        self.files[f"/pi/v2/package/6/{name}/latest.json"] = json.dumps(description).encode()


@contextmanager
def micropython_site() -> Iterator[Site]:
    """One that is empty."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path in site.cut else content)

        def log_message(self, format: str, *arguments: object) -> None:
            """The test looks at `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
