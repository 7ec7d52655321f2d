"""Files of S3 and Google Cloud Storage, by the file systems of fsspec: what lies under a name, and its bytes."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from mlxtune.data import urls
from mlxtune.data.folders import Listing
from mlxtune.data.paths import is_pattern, natural
from mlxtune.data.readers.raw import missing
from mlxtune.data.remote.file import AGAIN, Remote
from mlxtune.data.remote.server import Body, Facts, Lost, Steps
from mlxtune.errors import BadData, MlxtuneError
from mlxtune.format import shown

CONNECT, SILENCE, TRIES = 10, 30, 3  # seconds for a connection, and for the next byte; tries
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
_KNOWN_BY = ("md5Hash", "generation", "ETag")  # the first that a store has


class Address:
    """A name in a store, and what lies there."""

    def __init__(self, url: str) -> None:
        self.url, self._scheme = url, urls.scheme(url)
        self._system = _system(self._scheme, url)
        self._system.invalidate_cache()  # of listings: files may have come since
        self._path = url.partition("://")[2]

    def file(self) -> Remote | None:
        """The file of exactly this name."""
        if self._path.endswith("/") or "/" not in self._path:
            return None
        try:
            with _told(self.url):
                found = self._system.info(self._path)
        except FileNotFoundError:
            return None
        return self._remote(found) if found["type"] == "file" else None

    def folder(self) -> Listing | None:
        """What lies under this name and a slash."""
        prefix = self._path.rstrip("/")
        try:
            with _told(self.url):
                found = self._system.ls(prefix, detail=True, refresh=True)
        except FileNotFoundError:
            return None
        inside = {_name(each): each for each in found if each["name"].strip("/") != prefix}
        files = {name: self._remote(each) for name, each in inside.items() if each["type"] == "file"}

        def inner(name: str) -> Listing | None:
            is_folder = name in inside and name not in files
            return Address(f"{self._scheme}://{prefix}/{name}").folder() if is_folder else None

        return Listing(f"{self._scheme}://{prefix}", list(inside), files, inner) if inside else None

    def matching(self) -> list[Remote]:
        """All files that match the name, in natural order. Raises BadData for none."""
        try:
            with _told(self.url):
                found = self._system.glob(self._path, detail=True)
        except FileNotFoundError:
            found = {}
        files = [each for each in found.values() if each["type"] == "file"]
        if not files:
            nothing = "folders alone" if found else "no match"
            raise BadData(self.url, expected="a pattern that matches a file", found=nothing)
        return [self._remote(each) for each in sorted(files, key=lambda each: natural(each["name"]))]

    @property
    def is_pattern(self) -> bool:
        return is_pattern(self._path)

    def _remote(self, found: Mapping[str, Any]) -> Remote:
        url = f"{self._scheme}://{found['name']}"
        return Remote(url, _name(found), _Object(self._system, url, found))

    def nothing(self) -> BadData:
        bucket = self._path.partition("/")[0]
        found = "nothing of that name"
        try:
            with _told(self.url):
                self._system.ls(bucket, detail=False)
        except FileNotFoundError:
            found = f"no bucket {shown(bucket, 80)}"
        except MlxtuneError:  # a bucket that may not be listed
            pass
        return BadData(self.url, expected="a file or a folder of files", found=found, remedy="Check the spelling.")


def _name(found: Mapping[str, Any]) -> str:
    """A file's or a folder's own."""
    return str(found["name"]).rstrip("/").rpartition("/")[2]


def _facts(found: Mapping[str, Any]) -> Facts:
    known_by = next((f"{key} {found[key]}" for key in _KNOWN_BY if found.get(key)), "")
    return Facts(int(found["size"]), known_by)


class _Object:
    """A Server: one file of a store."""

    def __init__(self, system: Any, url: str, found: Mapping[str, Any]) -> None:
        self._system, self._url, self._path = system, url, found["name"]
        self._facts = _facts(found)
        self._opened: Any = None

    def facts(self) -> Facts:
        return self._facts

    def begin(self, at: int) -> Body:
        return Steps(self.part, at, self._facts.size or 0)

    def part(self, start: int, stop: int) -> bytes:
        try:
            with _told(self._url):
                if self._opened is None:  # it refuses an object that was changed meanwhile
                    self._opened = self._system.open(self._path, "rb", cache_type="none")
                self._opened.seek(start)
                found: bytes = self._opened.read(stop - start)
            if len(found) != stop - start:
                raise Lost
            if stop == self._facts.size:
                self._check()
            return found
        except FileNotFoundError:
            raise BadData(self._url, expected="a file", found="that it was removed meanwhile") from None

    def _check(self) -> None:
        """That it is the same file after its last byte as it was before the first."""
        with _told(self._url):
            self._system.invalidate_cache()
            now = _facts(self._system.info(self._path))
        if now != self._facts:
            raise _changed(self._url)


@cache
def _made(scheme: str) -> Any:
    if scheme == "s3":
        from s3fs import S3FileSystem

        config = {"connect_timeout": CONNECT, "read_timeout": SILENCE, "retries": {"total_max_attempts": 1}}
        made = S3FileSystem(config_kwargs=config, skip_instance_cache=True)
        made.retries = TRIES  # its own, around botocore's
        return made
    from aiohttp import ClientTimeout
    from gcsfs.core import GCSFileSystem  # the one that does not ask of what kind a bucket is before each call

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints a traceback of what it raises
    waiting = ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
    return GCSFileSystem(requests_timeout=waiting, skip_instance_cache=True)


def _system(scheme: str, url: str) -> Any:
    package, extra = _EXTRAS[scheme]
    try:
        with _told(url):
            return _made(scheme)
    except ImportError:
        raise missing(package, f"to read {url}", extra) from None


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What the clients raise, as one message. FileNotFoundError and ImportError are the caller's."""
    try:
        yield
    except (FileNotFoundError, ImportError, MlxtuneError, Lost):
        raise
    except Exception as error:  # those of botocore, aiohttp, google.auth and of the system: an open set
        raise _refusal(url, error) from None


def _changed(url: str) -> BadData:
    found, remedy = "one that was changed meanwhile", "Run the command again."
    return BadData(url, expected="a file that stays as it is while it is read", found=found, remedy=remedy)


def _is_refused(error: Exception, words: str) -> bool:
    is_told = getattr(error, "code", None) in (401, 403) or words.startswith("Forbidden")
    return isinstance(error, PermissionError) or is_told


def _refusal(url: str, error: Exception) -> BadData:
    words = urls.scrubbed((str(error).strip() or type(error).__name__).splitlines()[0]).rstrip(".")
    if code := getattr(error, "code", None):
        words = f"HTTP status {code}"
    said = shown(words, 200)
    ways = urls.OWN_WAYS[urls.scheme(url)]
    if urls.scheme(url) == "s3":
        ways += "\nFor what anyone may read: FSSPEC_S3_ANON=true"
    if _is_refused(error, words):
        found = f"that the store refuses it ({said})"
        return BadData(url, expected="a file or folder that may be read", found=found, remedy=ways)
    if "redential" in type(error).__name__ or "RefreshError" in type(error).__name__:
        return BadData(url, expected="credentials for the store", found=said, remedy=ways)
    if "PreconditionFailed" in str(error) or "FileExpired" in type(error).__name__:
        return _changed(url)
    return BadData(url, expected="an answer of the store", found=f"{type(error).__name__} ({said})", remedy=AGAIN)
