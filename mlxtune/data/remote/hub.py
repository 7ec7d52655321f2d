"""Data sets of the Hugging Face hub: which files of a repository, at one commit, hold the rows of which split.

Files are listed by huggingface_hub, so HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean
everywhere, and are read as they come. Without a network, what the local cache has of the repository is read.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn
from urllib.parse import unquote

from mlxtune.data import folders, urls
from mlxtune.data.folders import STEMS, Split
from mlxtune.data.paths import first_names, is_pattern, natural
from mlxtune.data.remote import card
from mlxtune.data.remote.file import File, Remote
from mlxtune.data.remote.http import Http
from mlxtune.data.remote.server import Here, Server
from mlxtune.errors import BadData
from mlxtune.format import shown

_WAIT = 10  # seconds for the hub's answer
_PATH = re.compile(
    r"(?:hf://datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>(?:refs/(?:convert|pr)/)?[^/]+))?(?:/(?P<rest>.*))?",
    re.IGNORECASE,
)
_NO_ROWS = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}  # what `datasets` writes


class Found(NamedTuple):
    """The files of each split in the order of their rows, the names of others, and the path with its commit."""

    splits: Mapping[Split, list[File]]
    unread: tuple[str, ...]
    pinned: str


class Repository(NamedTuple):
    """A data set at a commit. files: by their paths in it."""

    name: str
    commit: str
    files: Mapping[str, File]


def find(path: str) -> Found:
    """path: OWNER/NAME, or hf://datasets/OWNER/NAME, with @REVISION and a configuration, a file, a folder or a pattern
    in it."""
    parts = _PATH.fullmatch(path)
    if parts is None:
        expected = "hf://datasets/OWNER/NAME, with @REVISION and /PATH if wanted"
        raise BadData(path, expected=expected, found="something else", remedy="Check the spelling.")
    rest = (parts["rest"] or "").strip("/")
    repository = _repository(parts["name"], unquote(parts["revision"]) if parts["revision"] else None, path)
    pinned = f"hf://datasets/{repository.name}@{repository.commit}" + (f"/{rest}" if rest else "")
    splits, unread = _files(repository, rest)
    return Found(splits, unread, pinned)


def _files(repository: Repository, rest: str) -> tuple[Mapping[Split, list[File]], tuple[str, ...]]:
    place, files = f"hf://datasets/{repository.name}", repository.files
    said = card.read(files.get("README.md"))
    if rest in said.configurations or (not rest and said.configurations):
        return _configured(place, files, said.chosen(place, rest))
    if rest in files:
        return {"train": [files[rest]]}, ()
    inside = {path[len(rest) + 1 :]: file for path, file in files.items() if path.startswith(f"{rest}/")}
    inside = inside if rest else {path: file for path, file in files.items() if path not in _NO_ROWS}
    if inside:
        found = folders.find(folders.of_paths(f"{place}/{rest}".rstrip("/"), inside))
        return found.splits, found.unread
    if is_pattern(rest) and (matching := _matching(files, rest)):
        return {"train": matching}, ()
    there = first_names([*said.configurations, *sorted({path.partition("/")[0] for path in files})])
    expected = "a configuration, a file, a folder or a pattern of files in it"
    raise BadData(f"{place}/{rest}", expected=expected, found=f"no such thing; it has {there}")


def _configured(
    place: str, files: Mapping[str, File], configuration: card.Configuration
) -> tuple[Mapping[Split, list[File]], tuple[str, ...]]:
    """By the patterns of the data set's card."""
    known = [split for split in configuration if split in STEMS]
    if not known or len({STEMS[split] for split in known}) < len(known):
        expected, found = f"one split of each kind, named {', '.join(STEMS)}", first_names(configuration)
        remedy = f"Name the files of one: {place}/{next(iter(configuration.values()), ['PATTERN'])[0]}"
        raise BadData(place, expected=expected, found=found, remedy=remedy)
    splits: dict[Split, list[File]] = {}
    for split in known:
        matching = [file for pattern in configuration[split] for file in _matching(files, pattern)]
        if not matching:
            found = f"none that match {first_names(configuration[split])}"
            raise BadData(place, expected=f"the files of {split} that its card names", found=found)
        splits[STEMS[split]] = list(dict.fromkeys(matching))
    return splits, tuple(split for split in configuration if split not in STEMS)


def _matching(files: Mapping[str, File], pattern: str) -> list[File]:
    wanted = card.expression(pattern)
    return [files[path] for path in sorted(filter(wanted.fullmatch, files), key=natural)]


# what the hub or the cache has


def _repository(name: str, revision: str | None, path: str) -> Repository:
    from huggingface_hub import constants

    try:
        return _cached(name, revision) if constants.HF_HUB_OFFLINE else _listed(name, revision)
    except Exception as error:  # the packages raise whatever their servers and the system make them raise
        _tell(path, error)


def _listed(name: str, revision: str | None) -> Repository:
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # its documentation has it

    api = HfApi()
    commit = api.dataset_info(name, revision=revision, timeout=_WAIT).sha or ""
    tree = api.list_repo_tree(name, repo_type="dataset", revision=commit, recursive=True)
    servers: dict[str, Server] = {}
    for path in (each.path for each in tree if isinstance(each, RepoFile)):
        url = hf_hub_url(name, path, repo_type="dataset", revision=commit)
        servers[path] = Http(url, _place(name, path), build_hf_headers, urls.OWN_WAYS["hf"])
    return _made(name, commit, servers)


def _cached(name: str, revision: str | None) -> Repository:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return _made(name, folder.name, {path.relative_to(folder).as_posix(): Here(path) for path in paths})


def _made(name: str, commit: str, servers: Mapping[str, Server]) -> Repository:
    """Each file is called by its path, and known by the commit besides."""
    files: dict[str, File] = {
        path: Remote(_place(name, path), PurePosixPath(path).name, server, _place(f"{name}@{commit}", path))
        for path, server in servers.items()
    }
    return Repository(name, commit, files)


def _place(name: str, path: str) -> str:
    return f"hf://datasets/{name}/{path}"


def _tell(path: str, error: Exception) -> NoReturn:
    kind, words = type(error).__name__, (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    said = shown(urls.scrubbed(words), 300)[1:-1]
    told = {
        "GatedRepoError": ("that the hub refuses it", f"Accept its terms on the hub. {urls.OWN_WAYS['hf']}"),
        "RepositoryNotFoundError": ("no data set of that name", f"Check the spelling. {urls.OWN_WAYS['hf']}"),
        "RevisionNotFoundError": ("no such branch, tag or commit of it", "Leave the revision out for the main branch."),
        "LocalEntryNotFoundError": ("no copy in the local cache", "Unset HF_HUB_OFFLINE to read it from the hub."),
    }
    found, remedy = told.get(kind, (said, "Without a network, HF_HUB_OFFLINE=1 takes what is in the local cache."))
    if not path.lower().startswith("hf:"):
        found = f"nothing of that name here, and of the hub: {found}"
        expected = "a file, a folder or a hub data set"
    else:
        expected = "a data set of the hub"
    raise BadData(path, expected=expected, found=found, remedy=remedy) from None
