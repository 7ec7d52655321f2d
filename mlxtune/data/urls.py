"""Where rows may lie besides this machine, as a user writes it, and how it is shown: without what its owner alone may
know. Credentials come by the ways that each client has, never in a path."""

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from mlxtune.errors import BadSetting
from mlxtune.format import shown as quoted

SCHEMES = ("s3", "gs", "https", "http", "hf")
KNOWN = "s3://BUCKET/PATH, gs://BUCKET/PATH, https://HOST/FILE, http://HOST/FILE, hf://datasets/OWNER/NAME"
OWN_WAYS = {
    "s3": "Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `aws configure`.",
    "gs": "Credentials come from GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`.",
    "https": "A user and a password come from ~/.netrc.",
    "http": "A user and a password come from ~/.netrc.",
    "hf": "A token comes from HF_TOKEN, or `hf auth login`.",
}

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters and more: C:/ is a disk
_INSIDE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"`<>()]+")
_SECRET = re.compile(
    r"x-(amz|goog|ms|oss)-.*|.*(signature|token|secret|passw|credential|accesskey|accessid|api.?key|auth).*"
    r"|sig|key|pwd|policy|key-pair-id",
    re.IGNORECASE,
)
_LONGEST = 32  # characters of a value of a query that is no key to anything


def is_url(path: str) -> bool:
    """Whether a path has a scheme, a known one or not.

    >>> is_url("s3://bucket/x"), is_url("s3:/x"), is_url("C:/x"), is_url("owner/name"), is_url("./s3:/x")
    (True, True, False, False, False)
    """
    return _URL.match(path) is not None


def scheme(url: str) -> str:
    """The scheme of a URL, in lower case; "" for a path.

    >>> scheme("S3://bucket/x"), scheme("data/x")
    ('s3', '')
    """
    return url.partition(":")[0].lower() if is_url(url) else ""


def shown(path: str) -> str:
    """A path or URL without user, password and whatever in its query may be a key.

    >>> shown("https://me:pw@host/a.csv?day=3&X-Amz-Signature=ab12&sig=x#top")
    'https://host/a.csv?day=3'
    >>> shown("data/day=3?sig=x")
    'data/day=3?sig=x'
    """
    if not is_url(path):
        return path
    before, _, rest = path.partition(":")
    if scheme(path) not in ("http", "https"):  # no query: ? is of a pattern
        return f"{before}:{_without_user(rest)}"
    place, _, query = rest.partition("#")[0].partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if not _is_secret(name, value)]
    return f"{before}:{_without_user(place)}" + (f"?{urlencode(kept, quote_via=quote)}" if kept else "")


def scrubbed(text: str) -> str:
    """The words of another program, with every URL in them shown as above.

    >>> scrubbed("no route to https://me:pw@host/x?token=1 (5 s)")
    'no route to https://host/x (5 s)'
    """
    return _INSIDE.sub(lambda found: shown(found[0]), text)


def check(path: str | None, where: str = "data.path") -> None:
    """Raise BadSetting for a URL of an unknown scheme, and for one that carries a user and a password."""
    if path is None or not is_url(path):
        return
    name, place = scheme(path), shown(path)
    if name not in SCHEMES or not path[len(name) :].startswith("://"):
        remedy = f"A file on this machine needs no scheme; one of that very name is ./{place}"
        raise BadSetting(where, expected=f"a path, or one of {KNOWN}", found=quoted(place, 200), remedy=remedy)
    if "@" in _host(path[len(name) + 1 :]):
        expected = "a URL without a user and a password"
        raise BadSetting(where, expected=expected, found=f"{quoted(place, 200)} with them", remedy=OWN_WAYS[name])
    try:
        _ = urlsplit(path).port
    except ValueError:  # what stands there may be a password with a slash in it
        raise BadSetting(where, expected="a URL", found=f"{name}:// and no host after it") from None


def _host(rest: str) -> str:
    """Of what follows a scheme's colon."""
    return re.split(r"[/?#]", rest[2:], maxsplit=1)[0] if rest.startswith("//") else ""


def _without_user(rest: str) -> str:
    host = _host(rest)
    return f"//{host.rpartition('@')[2]}{rest[2 + len(host) :]}" if rest.startswith("//") else rest


def _is_secret(name: str, value: str) -> bool:
    return _SECRET.fullmatch(name) is not None or len(value) > _LONGEST
