"""The Hugging Face hub: whether it answers, and whether there is a token, which is never read."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session

from mlxtune.checks import Check

SECONDS = 2.0
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # in huggingface_hub's order
FOR_WHAT = "Gated and private models need one, public ones do not."
CACHED = "Models and data sets in the cache can be used, others cannot be fetched."


def checks() -> list[Check]:
    """The token and the hub."""
    return [token(), hub()]


def token() -> Check:
    """Whether there is one, and where it lies. Not a letter of it goes through here."""
    for name in VARIABLES:
        if os.environ.get(name, "").strip():
            return Check("hub token", "ok", f"present, in the environment ({name})")
    file = Path(constants.HF_TOKEN_PATH)
    if file.is_file() and file.stat().st_size > 0:
        return Check("hub token", "ok", "present, in huggingface_hub's file")
    return Check("hub token", "ok", "none", FOR_WHAT, "For those: hf auth login")


def hub() -> Check:
    """A request without a token to the hub that would be fetched from, in the way in which it would be."""
    if constants.HF_HUB_OFFLINE:
        return Check("hub", "ok", "not asked, as HF_HUB_OFFLINE is set", CACHED, "Unset it to fetch others.")
    place = urlsplit(constants.ENDPOINT)
    host = f"{place.hostname}:{place.port}" if place.port else f"{place.hostname}"  # without a name and password
    answer = within(SECONDS, lambda: get_session().head(constants.ENDPOINT, timeout=SECONDS).status_code)
    if isinstance(answer, int) and answer < 500:
        return Check("hub", "ok", f"{host} answers")
    said = f"answers with status {answer}" if isinstance(answer, int) else f"does not answer: {_words(answer)}"
    remedy = "Look at the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT. HF_HUB_OFFLINE=1 does not ask."
    return Check("hub", "warn", f"{host} {said}", CACHED, remedy)


def within(seconds: float, work: Callable[[], int]) -> int | Exception:
    """What the work gives or raises, or TimeoutError: looking up a name has no timeout of its own."""
    found: list[int | Exception] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # httpx's and the system's: an open set, all told in one line
            found.append(error)

    thread = Thread(target=run, daemon=True)  # which does not keep the program from ending
    thread.start()
    thread.join(seconds)
    return found[0] if found else TimeoutError(f"nothing within {seconds:.0f} s")


def _words(error: Exception) -> str:
    """The failure, without what a proxy's address may say of a name and password.

    >>> _words(OSError("no way to http://me:secret@proxy:80"))
    'no way to http://proxy:80'
    """
    return re.sub(r"//[^/@\s]*@", "//", str(error)) or type(error).__name__
