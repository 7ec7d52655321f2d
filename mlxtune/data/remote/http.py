"""Files by HTTP. A part of one is asked for with the header Range; not every server knows it."""

import atexit
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from netrc import NetrcParseError
from typing import Any
from urllib.parse import unquote, urlsplit

from mlxtune.data import urls
from mlxtune.data.remote.file import AGAIN, Remote
from mlxtune.data.remote.server import Body, Facts, Lost, NoParts, begun, first
from mlxtune.errors import BadData
from mlxtune.format import shown

CONNECT, SILENCE = 10.0, 30.0  # seconds for a connection, and for the next byte
_BUSY = {408, 425, 429, 500, 502, 503, 504}  # statuses that pass

Headers = Callable[[], Mapping[str, str]]


def file(url: str) -> Remote:
    """The file that a URL names."""
    place, name = urls.shown(url), unquote(urlsplit(url).path.rpartition("/")[2])
    if "*" in urlsplit(url).path:
        remedy = "Name one file, or use a store that can list its files: s3://, gs://, hf://."
        raise BadData(place, expected="a file's URL", found="a pattern, which HTTP cannot look up", remedy=remedy)
    if not name:
        remedy = "Name one file: a folder cannot be listed by HTTP."
        raise BadData(place, expected="a file's URL", found="one that ends in no name", remedy=remedy)
    return Remote(place, name, Http(url, place))


class Http:
    """A Server by HTTP. headers: what is sent besides, such as a token; other hosts never get it."""

    def __init__(self, url: str, place: str, headers: Headers = dict, refused: str = "") -> None:
        self._url, self._place, self._headers = url, place, headers
        self._refused = refused or urls.OWN_WAYS["https"]
        self._facts: Facts | None = None

    def facts(self) -> Facts:
        return self._facts or begun(self)

    def begin(self, at: int) -> Body:
        return self._ask(at, None)

    def part(self, start: int, stop: int) -> bytes:
        body = self._ask(start, stop)
        try:
            found = first(body, stop - start)
        finally:
            body.close()
        if len(found) < stop - start:
            raise Lost
        return found

    def _ask(self, start: int, stop: int | None) -> "_Response":
        headers = {"Accept-Encoding": "identity", **self._headers()}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        with _told(self._place):
            client = _client()
            made = client.send(client.build_request("GET", self._url, headers=headers), stream=True)
        response = _Response(made, self._place)
        try:
            self._check(made, is_part="Range" in headers, start=start)
        except BaseException:
            response.close()
            raise
        return response

    def _check(self, made: Any, *, is_part: bool, start: int) -> None:
        if made.status_code not in (200, 206):
            raise self._refusal(made.status_code)
        if is_part and made.status_code != 206:
            raise NoParts
        if is_part and not made.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise NoParts
        facts = Facts(_size(made), _known_by(made.headers))
        if self._facts is None:
            self._facts = facts
        elif facts.known_by != self._facts.known_by or facts.size not in (None, self._facts.size):
            found, remedy = "one that was changed meanwhile", "Run the command again."
            raise BadData(
                self._place, expected="a file that stays as it is while it is read", found=found, remedy=remedy
            )

    def _refusal(self, status: int) -> Exception:
        said = f"HTTP status {status}"
        if status in _BUSY:
            return Lost(f"a server that cannot answer now ({said})")
        if status in (401, 403):
            remedy = f"A signed URL may have run out, or have been recorded without its signature.\n{self._refused}"
            return BadData(
                self._place,
                expected="a file that may be read",
                found=f"that the server refuses it ({said})",
                remedy=remedy,
            )
        if status in (404, 410):
            return BadData(
                self._place, expected="a file", found=f"nothing of that name ({said})", remedy="Check the spelling."
            )
        return BadData(self._place, expected="a file that can be read", found=said, remedy=AGAIN)


class _Response:
    """The Body of an answer."""

    def __init__(self, made: Any, place: str) -> None:
        self._made, self._place = made, place
        self._pieces: Iterator[bytes] = made.iter_raw()
        self._held = memoryview(b"")

    def read(self, most: int) -> bytes:
        if not self._held:
            with _told(self._place):
                self._held = memoryview(next(self._pieces, b""))
        given, self._held = self._held[:most], self._held[most:]
        return bytes(given)

    def close(self) -> None:
        self._made.close()


def _size(made: Any) -> int | None:
    """Of the whole file, whatever part was sent."""
    if made.status_code == 206:
        said = made.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        said = made.headers.get("Content-Length", "")
    return int(said) if said.isdecimal() else None


def _known_by(headers: Mapping[str, str]) -> str:
    if etag := headers.get("ETag", "").removeprefix("W/"):
        return f"ETag {etag}"
    changed = headers.get("Last-Modified", "")
    return f"Last-Modified {changed}" if changed else ""


@cache
def _client() -> Any:
    """One for all files: connections are used again. ~/.netrc has users and passwords, the environment proxies."""
    import httpx2

    try:
        auth = httpx2.NetRCAuth()
    except (OSError, NetrcParseError):  # none, or none that can be read
        auth = None
    timeout = httpx2.Timeout(SILENCE, connect=CONNECT)
    client = httpx2.Client(timeout=timeout, follow_redirects=True, auth=auth)
    atexit.register(client.close)
    return client


@contextmanager
def _told(place: str) -> Iterator[None]:
    """What the client raises, as Lost where another try may fare better."""
    import httpx2

    try:
        yield
    except httpx2.TimeoutException as error:
        waited = f"{CONNECT:.0f} s" if isinstance(error, httpx2.ConnectTimeout) else f"{SILENCE:.0f} s"
        raise Lost(f"no answer for {waited}") from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        found = shown(urls.scrubbed(str(error)), 200)
        raise BadData(place, expected="a file that can be read", found=found) from None
    except httpx2.ConnectError as error:
        words = urls.scrubbed(str(error)).rstrip(".") or "it was refused"
        raise Lost(f"no connection ({words})") from None
    except (httpx2.TransportError, ssl.SSLError):
        raise Lost from None
