"""`view`: serve the page of runs to this machine's browser, and make the page again when the runs have grown.

The server listens on the loopback address and answers only requests to this address. A web page from elsewhere can
therefore not read it through the browser.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.page.defaults import FORKING_SHARE
from antiphase.page.document import Document, Run
from antiphase.page.html import render_page
from antiphase.report.entries import HOST, Source, check_view, listening
from antiphase.report.sources import NothingFinishedError
from antiphase.report.writing import document_of

_WATCHED = (
    "*.json", "*.jsonl", "*.parquet", "parts/*/*.parquet", "evals/*/*.json", "evals/*/parts/*/*.parquet",
    "checkpoints/*/*.json", "kept_rollouts/*.parquet",
)  # fmt: skip


def signature_of(paths: Sequence[Path]) -> str:
    """Return a text that changes whenever a file in the run folders changes. The page must then be made again."""
    facts = []
    for path in paths:
        for pattern in _WATCHED:
            for file in sorted(path.glob(pattern)):
                with contextlib.suppress(OSError):  # The run may have renamed or merged the file meanwhile.
                    status = file.stat()
                    facts.append((str(file), status.st_mtime_ns, status.st_size))
    return f"{hash(tuple(facts)) & 0xFFFF_FFFF_FFFF_FFFF:016x}"


class Viewer:
    """Makes the page of some runs on request, and keeps this page until the files of the runs change.

    Args:
        sources: the runs.
        options: keyword arguments of `document_of`: `markers` (the words that count as reasoning markers) and
            `forking_share` (the share of forking tokens among all tokens).
    """

    def __init__(self, sources: Sequence[Source], **options: Any) -> None:
        self.sources, self.options = list(sources), options
        self._lock = threading.Lock()
        self._known: tuple[str, bytes] | None = None

    def version(self) -> str:
        """Return a text that changes whenever a file in the folders of the runs changes; see `signature_of`."""
        return signature_of([source.path for source in self.sources])

    def page(self) -> bytes:
        """Return the HTML of the page, made from the files as they are now.

        If the runs cannot be shown, the page says why.
        """
        with self._lock:
            version = self.version()
            if self._known is None or self._known[0] != version:
                self._known = (version, render_page(self._document(), live=version).encode())
            return self._known[1]

    def _document(self) -> Document:
        """Return the content of the page; if the runs cannot be read, a document that says why."""
        try:
            return document_of(self.sources, **self.options)
        except InvalidInputError as error:
            names = [source.label or source.path.resolve().name for source in self.sources]
            runs = [Run(name, "waiting", finished=False) for name in names]
            waiting = isinstance(error, NothingFinishedError)
            lead = "Waiting for the first finished batch. " if waiting else ""
            return Document(" · ".join(names), runs, notes=[f"{lead}{error}"])


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of the browser: for the page, and for the signature of the run's files as they are now.

    The page stores the signature that the files had when the page was made. It compares the two signatures, to see
    whether the files have changed.
    """

    server: "Server"
    server_version = "antiphase"

    def do_GET(self) -> None:
        """Answer a request for the page, or for the version of the files (see `Viewer.version`)."""
        # The host name of an attacker's web page may resolve to this machine. Requests under such a name are refused.
        if self.headers.get("Host", "") not in self.server.names:
            self._answer(403, "text/plain", b"This server answers on its own address only.\n")
        elif self.path == "/version":
            self._answer(200, "text/plain", self.server.viewer.version().encode())
        elif self.path in ("/", "/index.html"):
            self._answer(200, "text/html", self.server.viewer.page())
        else:
            self._answer(404, "text/plain", b"not found\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer with a header that forbids the browser to store it."""
        with contextlib.suppress(ConnectionError):  # The browser may have closed the connection.
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing, so that requests are not printed."""


class Server(ThreadingHTTPServer):
    """Serves a `Viewer` on the loopback address."""

    daemon_threads = True

    def __init__(self, viewer: Viewer, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.viewer = viewer
        self.names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        """Return the address of the page."""
        return f"http://{HOST}:{self.server_port}/"


@contextlib.contextmanager
def serving(runs: str | Path | Sequence[str | Path], port: int = 0, **options: Any) -> Iterator[Server]:
    """Serve the page of these runs in a thread, until the `with` block ends.

    Args:
        runs: the runs, each of the form `[NAME=]RUN[,RUN…]`. The folders must exist, but may have nothing to show yet.
        port: the port to listen on; 0 means any free port.
        options: `markers` (the words that count as reasoning markers) and `forking_share` (the share of forking
            tokens, which are the tokens with the highest entropy, among all tokens).

    Raises:
        InvalidInputError: a folder is missing, an option is out of its range, or the port is in use.
    """
    sources = check_view(runs, port, forking_share=options.get("forking_share", FORKING_SHARE))
    with listening(port):
        server = Server(Viewer(sources, **options), port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
