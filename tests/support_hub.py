"""A Hugging Face hub on this machine, of one repository: enough for huggingface_hub to list and to fetch it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c0ffee" * 6 + "c0de"
ERROR_CODES = {"GatedRepo": 403, "RepoNotFound": 404, "RevisionNotFound": 404}


class Hub:
    """What the hub has and what it was asked. Set `refuses` to an X-Error-Code or to a status."""

    def __init__(self, repo: str, folder: Path) -> None:
        self.repo, self.folder = repo, folder
        self.refuses: str | int | None = None
        self.asked: list[str] = []  # paths, in order
        self.url = ""

    @property
    def fetched(self) -> set[str]:
        """Names of the files that were sent."""
        return {path.partition(f"/resolve/{COMMIT}/")[2] for path in self.asked if path.startswith("GET /org")}

    def files(self) -> list[dict[str, object]]:
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return [
            {
                "type": "file",
                "path": path.relative_to(self.folder).as_posix(),
                "size": path.stat().st_size,
                "oid": sha1(path.read_bytes()).hexdigest(),
            }
            for path in paths
        ]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of this machine, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.refuses is not None:
            self._refuse(self.hub.refuses)
        elif path.startswith(f"/api/models/{self.hub.repo}/tree/"):
            self._send(json.dumps(self.hub.files()).encode())
        elif path.startswith(f"/api/models/{self.hub.repo}"):
            siblings = [{"rfilename": file["path"]} for file in self.hub.files()]
            self._send(json.dumps({"id": self.hub.repo, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/{self.hub.repo}/resolve/{COMMIT}/"):
            self._send((self.hub.folder / path.split("/", 5)[5]).read_bytes())
        else:
            self._refuse("RepoNotFound")

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, reason: str | int) -> None:
        status = reason if isinstance(reason, int) else ERROR_CODES[reason]
        self.send_response(status)
        if isinstance(reason, str):
            self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""
