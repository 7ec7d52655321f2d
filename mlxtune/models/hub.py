"""From the name of a model to its folder: an alias, a hub id, a local folder, or the built-in model.

From the hub come config, tokenizer and safetensors of the repository's root, and nothing else: no pickle, no code, no
second copy in another format. huggingface_hub does the fetching, so HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they
mean everywhere.
"""

import re
from difflib import get_close_matches
from pathlib import Path

from mlxtune.errors import BadModel, BadSetting
from mlxtune.models import weights
from mlxtune.models.aliases import ALIASES, TINY
from mlxtune.models.folder import TOKENIZERS
from mlxtune.models.refusals import explain

BUILT_IN = Path(__file__).parent.parent / "assets" / "model"

WANTED = (
    "config.json", "generation_config.json", "hf_quant_config.json", "model*.safetensors", weights.INDEX,
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def resolve(name: str | None, *, revision: str | None = None) -> Path:
    """The local folder of a model, fetched from the hub where need be. None is the built-in model.

    An alias wins over a folder of the same name; `./name` is always the folder. A complete copy in the cache is used
    as it is, without a look at the network. BadModel says why there is no folder.
    """
    if name is None or name == TINY:
        return _unrevised(BUILT_IN, revision)
    if name in ALIASES:
        return fetch(ALIASES[name], revision)
    folder = Path(name).expanduser()
    if name and folder.exists():
        return _unrevised(folder, revision)
    if re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", name) and not name.startswith(("~", ".")):
        return fetch(name, revision)
    raise _unknown(name)


def fetch(repo: str, revision: str | None = None) -> Path:
    """The folder of a hub repository: the cache's copy where that is complete, else a download with a progress bar."""
    cached = in_cache(repo, revision)
    if cached is not None:
        return cached
    try:
        folder = _snapshot(repo, revision)
    except Exception as error:  # the library's own, httpx's and the system's: an open set, all told in one message
        part = _part(error)
        raise (explain(error, repo, revision) if part is None else _in_part(repo, part)) from error
    if not is_complete(folder):
        raise _incomplete(repo, revision, folder)
    return folder


def in_cache(repo: str, revision: str | None = None) -> Path | None:
    """The folder of a repository that the local cache holds completely; touches no network."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = _snapshot(repo, revision, local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return folder if is_complete(folder) else None


def _snapshot(repo: str, revision: str | None, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repo,
        revision=revision,
        local_files_only=local_files_only,
        allow_patterns=[*WANTED],
        ignore_patterns=["*/*"],
    )
    return Path(folder)


def _part(error: Exception) -> Path | None:
    """The folder of the cache that IncompleteSnapshotError (huggingface_hub 2) names, with some of the files."""
    place = getattr(error, "snapshot_path", None)
    return None if place is None else Path(place)


def is_complete(folder: Path) -> bool:
    """Whether config, tokenizer and every weight file are there. An interrupted download leaves some of them out."""
    if not (folder / "config.json").is_file() or not any((folder / name).is_file() for name in TOKENIZERS):
        return False
    try:
        return bool(weights.files(folder))
    except BadModel:
        return False


def _unrevised(folder: Path, revision: str | None) -> Path:
    if revision is not None:
        raise BadSetting(
            "model.revision",
            expected="no revision, as the model is a local folder",
            found=repr(revision),
            remedy="Only models of the hub have revisions. Leave it out.",
        )
    return folder


def _unknown(name: str) -> BadModel:
    """A name that is no alias, no hub id and no folder."""
    if "/" in name or name.startswith(("~", ".")):
        return BadModel(name, expected="a model folder", found="no such folder", remedy="Check the path.")
    near = get_close_matches(name.lower(), [TINY, *ALIASES], n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]}?\n" if near else ""
    remedy += "`mlxtune models` lists the aliases; a hub id is ORGANISATION/NAME."
    return BadModel("model", expected="an alias, a hub id or a folder", found=repr(name), remedy=remedy)


def _in_part(repo: str, folder: Path) -> BadModel:
    return BadModel(
        repo,
        expected="a complete copy in the cache, as the hub is out of reach",
        found=f"no {_absent(folder) or 'copy of all files that the repository lists'}",
        remedy="Connect to the network (and unset HF_HUB_OFFLINE), and run the command again to fetch the rest.",
    )


def _incomplete(repo: str, revision: str | None, folder: Path) -> BadModel:
    """Either the repository has no such files, or the hub was out of reach and the cache holds a part."""
    there = _listing(repo, revision)
    if there is None:
        return _in_part(repo, folder)
    absent = _absent(folder)
    remedy = "Choose a repository in Hugging Face format with safetensors."
    if "adapter_config.json" in there:
        remedy = "This repository is an adapter. Give the model that it was made for as --model."
    elif kinds := sorted({Path(name).suffix for name in there} & {".bin", ".pt", ".pth", ".gguf", ".npz", ".onnx"}):
        remedy = f"It has {' and '.join(kinds)} files, which are not read. {remedy}"
    return BadModel(
        repo, expected="config.json, a tokenizer and model*.safetensors", found=f"no {absent}", remedy=remedy
    )


def _absent(folder: Path) -> str:
    """What of config, tokenizer and weights a folder does not have, in words."""
    absent = [] if (folder / "config.json").is_file() else ["config.json"]
    absent += [] if any((folder / name).is_file() for name in TOKENIZERS) else ["tokenizer.json"]
    try:
        weights.files(folder)
    except BadModel as fault:
        absent.append(fault.found.removeprefix("no ") if fault.found.startswith("no ") else "model*.safetensors")
    return ", no ".join(absent)


def _listing(repo: str, revision: str | None) -> list[str] | None:
    """Names of the repository's files, None where the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repo, revision=revision)
    except Exception:  # this only words a message about another fault
        return None
