"""What went wrong at the hub, as one message that says what to do."""

import errno
import os

from mlxtune.errors import BadModel


def explain(error: Exception, repo: str, revision: str | None) -> BadModel:
    """The BadModel for a failure of huggingface_hub while it fetched a repository. Subclasses come first."""
    from huggingface_hub import errors

    place = repo if revision is None else f"{repo} (revision {revision})"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(error, errors.HFValidationError):
        return _refusal(place, "a hub id, ORGANISATION/NAME", "a name that the hub cannot have", str(error))
    if isinstance(cause, errors.OfflineModeIsEnabled) or _is_offline():
        return _offline(place)
    if isinstance(cause, errors.GatedRepoError):
        return _gated(place, repo)
    if isinstance(cause, errors.RepositoryNotFoundError):
        return _not_found(place)
    if isinstance(cause, errors.RevisionNotFoundError):
        remedy = "Leave the revision out for the main branch, or see the repository's branches and tags."
        return _refusal(place, "a branch, tag or commit of the repository", "none of that name", remedy)
    if isinstance(cause, errors.HfHubHTTPError):
        return _answered(place, cause.response.status_code)
    if _is_disk_full(error):
        remedy = "Free some space, or set HF_HOME to a folder on a larger disk. The files fetched so far are kept."
        return _refusal(place, "room on the disk for the model", f"none left in {_cache()}", remedy)
    if isinstance(error, PermissionError):
        remedy = "Set HF_HOME to a folder that you may write to."
        return _refusal(place, "a cache folder that can be written to", f"{error.filename or _cache()}: denied", remedy)
    return _out_of_reach(place, cause or error)


def _refusal(place: str, expected: str, found: str, remedy: str) -> BadModel:
    return BadModel(place, expected=expected, found=found, remedy=remedy)


def _offline(place: str) -> BadModel:
    remedy = "Unset HF_HUB_OFFLINE to fetch it once, or give a local folder. `mlxtune models` lists what is cached."
    return _refusal(place, "a complete copy in the cache, as HF_HUB_OFFLINE is set", f"none in {_cache()}", remedy)


def _gated(place: str, repo: str) -> BadModel:
    remedy = f"Accept the model's terms at https://huggingface.co/{repo}, then {_log_in()}."
    return _refusal(place, "access to a gated model", "that the hub refuses it to you", remedy)


def _not_found(place: str) -> BadModel:
    remedy = f"Check the spelling. If the repository is private, {_log_in()}."
    return _refusal(place, "a repository on the hub, or a local folder", "neither of that name", remedy)


def _log_in() -> str:
    if os.environ.get("HF_TOKEN"):
        return "check that the token in HF_TOKEN may read it"
    return "set HF_TOKEN to a token of yours, or run `hf auth login`"


def _answered(place: str, status: int) -> BadModel:
    """The hub answered with a fault of HTTP."""
    remedy = (
        "Try again later." if status >= 500 or status == 429 else f"If the repository asks for a login, {_log_in()}."
    )
    return _refusal(place, "the repository's files", f"that the hub answers with HTTP status {status}", remedy)


def _out_of_reach(place: str, error: BaseException) -> BadModel:
    first_line = next(iter(str(error).splitlines()), "")
    found = f"{type(error).__name__}: {first_line}".rstrip(".: ")
    remedy = "Check the network and run the command again: what was fetched so far is kept.\nA local folder needs none."
    return _refusal(place, "the hub within reach, or a complete copy in the cache", found, remedy)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _is_disk_full(error: BaseException) -> bool:
    """Downloads through xet tell it in words, the others by errno."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)
