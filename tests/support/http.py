"""An HTTP server on this machine that may behave as badly as some do."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Site:
    """Its files, what it was asked for, and its habits."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and query, and the Range
    headers: list[dict[str, str]] = field(default_factory=list)
    knows_ranges: bool = True
    says_etag: bool = True
    says_changed: bool = False
    says_length: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes of each answer, one after another, before it is cut off
    waits: float = 0  # seconds before an answer
    statuses: list[int] = field(default_factory=list)  # of the next answers
    sends_to: str = ""  # another server, which has the files
    url: str = ""
    sent: int = 0


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """The site on a free port, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    server.daemon_threads = True
    server.block_on_close = False
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        site, asked = self.site, self.headers.get("Range", "")
        site.asked.append((self.path, asked))
        site.headers.append(dict(self.headers))
        if site.waits:
            time.sleep(site.waits)
        if site.statuses or site.sends_to:
            self._bare(site.statuses.pop(0) if site.statuses else 302)
            return
        body = site.files.get(self.path.partition("?")[0].lstrip("/"))
        if body is None:
            self._bare(404)
            return
        self._send(body, re.fullmatch(r"bytes=(\d+)-(\d*)", asked) if site.knows_ranges else None)

    def _bare(self, status: int) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.site.sends_to + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, asked: re.Match[str] | None) -> None:
        site, start = self.site, int(asked[1]) if asked else 0
        stop = int(asked[2]) + 1 if asked and asked[2] else len(body)
        part = body[start:stop]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(body)}")
        if site.says_length:
            self.send_header("Content-Length", str(len(part)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        if site.says_etag:
            self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
        if site.says_changed:
            self.send_header("Last-Modified", "Sat, 01 Aug 2026 10:00:00 GMT")
        self.end_headers()
        if site.cuts and (cut := site.cuts.pop(0)) < len(part):
            part, self.close_connection = part[:cut], True
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(part)
            site.sent += len(part)
        except OSError:  # the reader has gone
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""
