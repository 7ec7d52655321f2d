"""A Hugging Face hub on this machine, of one repository: enough for huggingface_hub to list and to fetch it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" * 6 + "c0de"
ERROR_CODES = {"GatedRepo": 403, "RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404}


class Hub:
    """What the hub has and what it was asked. Set `refuses` to an X-Error-Code or to a status."""

    def __init__(self, repo: str, folder: Path, kind: str = "models") -> None:
        self.repo, self.folder, self.kind = repo, folder, kind
        self.refuses: str | int | None = None
        self.asked: list[str] = []  # paths, in order
        self.sent_bytes: Counter[str] = Counter()  # of each file by name
        self.url = ""

    @property
    def place(self) -> str:
        """Of its files, as the hub has it."""
        return self.repo if self.kind == "models" else f"{self.kind}/{self.repo}"

    @property
    def fetched(self) -> set[str]:
        """Names of the files that were sent."""
        return {
            path.partition(f"/resolve/{COMMIT}/")[2] for path in self.asked if path.startswith(f"GET /{self.place}/")
        }

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


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub asks this hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub has its cache in this folder, and no hub beyond this machine."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def place_in_cache(cache: Path, repo: str, kind: str = "models") -> Path:
    """An empty folder for a repository's files in the cache, as huggingface_hub lays it out."""
    root = cache / f"{kind}--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    return root / "snapshots" / COMMIT


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
        elif path.startswith(f"/api/{self.hub.kind}/{self.hub.repo}/tree/"):
            self._send(json.dumps(self.hub.files()).encode())
        elif path.startswith(f"/api/{self.hub.kind}/{self.hub.repo}"):
            siblings = [{"rfilename": file["path"]} for file in self.hub.files()]
            self._send(json.dumps({"id": self.hub.repo, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(begin := f"/{self.hub.place}/resolve/{COMMIT}/"):
            self._send_file(path.removeprefix(begin))
        else:
            self._refuse("RepoNotFound")

    def _send_file(self, name: str) -> None:
        """A file, or the range of it that is asked for."""
        if not (self.hub.folder / name).is_file():
            self._refuse("EntryNotFound")
            return
        body = (self.hub.folder / name).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, last = (int(asked[1]), int(asked[2] or len(body) - 1)) if asked else (0, len(body) - 1)
        part = body[start : last + 1]
        self.hub.sent_bytes[name] += len(part) if self.command == "GET" else 0
        self._send(part, 206 if asked else 200, f"bytes {start}-{last}/{len(body)}" if asked else "", body)

    def _send(self, body: bytes, status: int = 200, of: str = "", whole: bytes = b"") -> None:
        self.send_response(status)
        if of:
            self.send_header("Content-Range", of)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha1(whole or body).hexdigest()}"')
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
