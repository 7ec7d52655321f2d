"""What went wrong at the hub, as one message that says what to do."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

from mlxtune.errors import BadModel
from mlxtune.models import weights
from mlxtune.models.folder import TOKENIZERS


class Told(NamedTuple):
    """What a message says; {repo}, {cache} and {log_in} are filled in."""

    expected: str
    found: str
    remedy: str


OFFLINE = Told(
    "a complete copy in the cache, as HF_HUB_OFFLINE is set",
    "none in {cache}",
    "Unset HF_HUB_OFFLINE to fetch it once, or give a local folder. `mlxtune models` lists what is cached.",
)
DISK_FULL = Told(
    "room on the disk for the model",
    "none left in {cache}",
    "Free some space, or set HF_HOME to a folder on a larger disk. The files fetched so far are kept.",
)

# By the class of the failure in huggingface_hub and Python; a class that is not here is told as its base is.
BY_CLASS = {
    "OfflineModeIsEnabled": OFFLINE,
    "HFValidationError": Told("a hub id, ORGANISATION/NAME", "a name that the hub cannot have", "Check the spelling."),
    "GatedRepoError": Told(
        "access to a gated model",
        "that the hub refuses it to you",
        "Accept the model's terms at https://huggingface.co/{repo}, then {log_in}.",
    ),
    "RepositoryNotFoundError": Told(
        "a repository on the hub, or a local folder",
        "neither of that name",
        "Check the spelling. If the repository is private, {log_in}.",
    ),
    "RevisionNotFoundError": Told(
        "a branch, tag or commit of the repository",
        "none of that name",
        "Leave the revision out for the main branch, or see the repository's branches and tags.",
    ),
    "NotASafetensorsRepoError": Told(
        "model.safetensors or its index in the repository",
        "neither",
        "Choose a repository in Hugging Face format with safetensors.",
    ),
    "SafetensorsParsingError": Told(
        "safetensors files in the repository",
        "one with a header that cannot be read",
        "Choose another repository or revision of the model.",
    ),
    "PermissionError": Told(
        "a cache folder that can be written to",
        "that {cache} cannot be",
        "Set HF_HOME to a folder that you may write to.",
    ),
}


def explain(error: Exception, repo: str, revision: str | None) -> BadModel:
    """The BadModel for a failure of huggingface_hub while it fetched a repository."""
    from huggingface_hub import constants, errors

    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    told = OFFLINE if constants.HF_HUB_OFFLINE else _told(cause)
    fill = {"repo": repo, "cache": constants.HF_HUB_CACHE, "log_in": _log_in()}
    place = repo if revision is None else f"{repo} (revision {revision})"
    expected, found, remedy = (part.format(**fill) for part in told)
    return BadModel(place, expected=expected, found=found, remedy=remedy)


def _told(cause: BaseException) -> Told:
    if _is_disk_full(cause):
        return DISK_FULL
    for kind in type(cause).__mro__:
        if kind.__name__ in BY_CLASS:
            return BY_CLASS[kind.__name__]
    return _status(cause) or _out_of_reach(cause)


def _is_disk_full(error: BaseException) -> bool:
    """Downloads through xet tell it in words, the others by errno."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def _status(error: BaseException) -> Told | None:
    """The hub answered with a fault of HTTP that it has no class for."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return None
    passing = status >= 500 or status == 429
    remedy = "Try again later." if passing else "If the repository asks for a login, {log_in}."
    return Told("the repository's files", f"that the hub answers with HTTP status {status}", remedy)


def _out_of_reach(error: BaseException) -> Told:
    first_line = next(iter(str(error).splitlines()), "").replace("{", "(").replace("}", ")")
    remedy = "Check the network and run the command again: what was fetched so far is kept.\nA local folder needs none."
    found = f"{type(error).__name__}: {first_line}".rstrip(".: ")
    return Told("the hub within reach, or a complete copy in the cache", found, remedy)


def _log_in() -> str:
    if os.environ.get("HF_TOKEN"):
        return "check that the token in HF_TOKEN may read it"
    return "set HF_TOKEN to a token of yours, or run `hf auth login`"


def in_part(repo: str, folder: Path) -> BadModel:
    """The cache has some of a repository's files, and the hub cannot be asked for the rest."""
    return BadModel(
        repo,
        expected="a complete copy in the cache, as the hub is out of reach",
        found=f"no {absent(folder) or 'copy of all files that the repository lists'}",
        remedy="Connect to the network (and unset HF_HUB_OFFLINE), and run the command again to fetch the rest.",
    )


def incomplete(repo: str, revision: str | None, folder: Path, lacking: str) -> BadModel:
    """Either the repository has no such files, or the hub was out of reach and the cache holds a part."""
    there = _listing(repo, revision)
    if there is None:
        return in_part(repo, folder)
    remedy = "Choose a repository in Hugging Face format with safetensors."
    if "adapter_config.json" in there:
        remedy = "This repository is an adapter. Give the model that it was made for as --model."
    elif kinds := sorted({Path(name).suffix for name in there} & {".bin", ".pt", ".pth", ".gguf", ".npz", ".onnx"}):
        remedy = f"It has {' and '.join(kinds)} files, which are not read. {remedy}"
    expected = "config.json, a tokenizer and model*.safetensors"
    return BadModel(repo, expected=expected, found=f"no {lacking}", remedy=remedy)


def absent(folder: Path) -> str:
    """What of config, tokenizer and weights a folder does not have, in words."""
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [] if any((folder / name).is_file() for name in TOKENIZERS) else ["tokenizer.json"]
    try:
        weights.files(folder)
    except BadModel as fault:
        lacking.append(fault.found.removeprefix("no ") if fault.found.startswith("no ") else weights.PATTERN)
    return ", no ".join(lacking)


def _listing(repo: str, revision: str | None) -> list[str] | None:
    """Names of the repository's files, None where the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repo, revision=revision)
    except Exception:  # this only words a message about another fault
        return None
