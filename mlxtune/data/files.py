"""Files, folders and hub data sets -> raw rows, each with its file and line. Nothing here knows the forms of rows."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlxtune.data.faults import Fault, Place, shown
from mlxtune.errors import BadData, Missing

Split = Literal["train", "valid", "test"]
STEMS: dict[str, Split] = {"train": "train", "valid": "valid", "validation": "valid", "test": "test"}


class Document(NamedTuple):
    """The text of a whole .txt file."""

    text: str


class Raw(NamedTuple):
    """What a file holds at a place; a JSON object or a document, if the file is right."""

    place: Place
    value: object


Rows = Iterator[Raw | Fault]


def read(path: str | None) -> dict[Split, list[Raw | Fault]]:
    """The rows of each split; a single file is all "train". path: None is the built-in data."""
    where = _builtin() if path is None else Path(path).expanduser()
    if where.is_dir():
        return {split: _rows(file) for split, file in _split_files(where).items()}
    if where.is_file():
        return {"train": _rows(where)}
    if path is not None and _may_be_hub_name(path):
        return _hub(path)
    raise BadData(str(where), expected="a file, a folder or a hub data set", found="nothing of that name")


def _builtin() -> Path:
    return Path(str(package_files("mlxtune").joinpath("assets", "data")))


def _split_files(folder: Path) -> dict[Split, Path]:
    """The one file of each split. Two files for one split are an error: which one was meant?"""
    found: dict[Split, Path] = {}
    for file in sorted(folder.iterdir()):
        split = STEMS.get(file.stem)
        if split is None or file.suffix.lower() not in READERS or not file.is_file():
            continue
        if split in found:
            both = f"both {found[split].name} and {file.name}"
            raise BadData(str(folder), expected=f"one {split} file", found=both, remedy="Remove or rename one of them.")
        found[split] = file
    if found:
        return found
    names = [each.name for each in sorted(folder.iterdir())]
    held = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "nothing"
    raise BadData(
        str(folder),
        expected=f"a train file ({', '.join(f'train{suffix}' for suffix in READERS)})",
        found=f"a folder that holds {held}",
    )


def _rows(file: Path) -> list[Raw | Fault]:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        known = ", ".join(READERS)
        raise BadData(str(file), expected=f"a file that ends in one of {known}", found=f"`{file.suffix or file.name}`")
    try:
        rows = list(reader(file))
    except OSError as error:
        raise BadData(str(file), expected="a file that can be read", found=str(error.strerror or error)) from None
    if not rows:
        raise BadData(str(file), expected="at least one row", found=_emptiness(file))
    return rows


def _emptiness(file: Path) -> str:
    return "an empty file" if file.stat().st_size == 0 else "a file without any"


# JSON


def _jsonl(file: Path) -> Rows:
    """One JSON value a line; blank lines are skipped. Lines end at a newline alone: JSON text may hold U+2028."""
    for number, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield _json_line(Place(file, number), line.rstrip(b"\r"))


def _json_line(place: Place, line: bytes) -> Raw | Fault:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(place, "UTF-8 text", f"the byte 0x{line[error.start]:02x} at column {error.start + 1}")
    try:
        return Raw(place, json.loads(text))
    except json.JSONDecodeError as error:
        return Fault(place, "a JSON object", f"{shown(text, 40)} ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested without end
        return Fault(place, "a JSON object", f"{shown(text, 40)} ({error})")


def _json(file: Path) -> Rows:
    """A list of rows; or, under this name too, one row a line."""
    text = _text(file)
    return _json_list(file, text) if text.lstrip().startswith("[") else _jsonl(file)


def _json_list(file: Path, text: str) -> Rows:
    """The list's elements, each with the line that it begins on. A fault of syntax ends the reading."""
    decoder, at, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        at = _skip(text, at, " \t\r\n")
        line, counted = line + text.count("\n", counted, at), at
        if text.startswith("]", at):
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise _bad_json(file, text, error) from None
        yield Raw(Place(file, line), value)
        at = _skip(text, at, " \t\r\n")
        if text.startswith(",", at):
            at += 1
        elif not text.startswith("]", at):
            raise _bad_json(file, text, json.JSONDecodeError("Expecting ',' or ']'", text, at))


def _skip(text: str, at: int, blanks: str) -> int:
    while at < len(text) and text[at] in blanks:
        at += 1
    return at


def _bad_json(file: Path, text: str, error: json.JSONDecodeError | RecursionError) -> BadData:
    if isinstance(error, RecursionError):
        return BadData(str(file), expected="a list of JSON objects", found="brackets nested too deep")
    line = text.split("\n")[error.lineno - 1] if error.pos < len(text) else "the end of the file"
    found = f"{shown(line.strip(), 40)} ({error.msg}, column {error.colno})"
    return BadData(f"{file}:{error.lineno}", expected="a list of JSON objects", found=found)


# other formats


def _text(file: Path) -> str:
    data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{data[error.start]:02x}"
        raise BadData(f"{file}:{line}", expected="UTF-8 text", found=found) from None


def _txt(file: Path) -> Rows:
    text = _text(file)
    if text.strip():
        yield Raw(Place(file, 1), Document(text.replace("\r\n", "\n")))


def _csv(file: Path) -> Rows:
    """Rows of a table with a header. A row that is shorter or longer than the header is a fault."""
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, is less than a long row
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    line = 1
    try:
        header = next(filter(_has_text, reader), [])
        line = reader.line_num + 1
        for cells in reader:
            place, line = Place(file, line), reader.line_num + 1
            if _has_text(cells):
                yield _csv_row(place, header, cells)
    except csv.Error as error:  # a quote that is never closed swallows the rest of the file
        raise BadData(f"{file}:{line}", expected="a CSV row", found=f"one that cannot be read ({error})") from None


def _has_text(cells: list[str]) -> bool:
    return any(cell.strip() for cell in cells)


def _csv_row(place: Place, header: list[str], cells: list[str]) -> Raw | Fault:
    if len(cells) != len(header):
        return Fault(place, f"{len(header):,} cells, as in the header", f"{len(cells):,}")
    return Raw(place, {name: _cell(cell) for name, cell in zip(header, cells, strict=True)})


def _cell(cell: str) -> object:
    """A cell that holds a JSON list or object (messages, tools) becomes it; all else is text."""
    if cell[:2] in ("[{", '{"'):
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell


def _parquet(file: Path) -> Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise _missing("pyarrow", f"to read {file}") from None
    try:
        table = pq.read_table(file)
    except pa.ArrowException as error:
        raise BadData(str(file), expected="a parquet file", found=str(error).splitlines()[0]) from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Raw(Place(file, number), row)


def _missing(package: str, why: str) -> Missing:
    remedy = 'Install it: pip install "mlxtune[data]"'
    return Missing("", expected=f"the package {package} {why}", found="none installed", remedy=remedy)


READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _txt,
}


# the hub


def _may_be_hub_name(path: str) -> bool:
    """owner/name: one slash, nothing that only a path has.

    >>> _may_be_hub_name("tatsu-lab/alpaca"), _may_be_hub_name("./data/x"), _may_be_hub_name("data/x.jsonl")
    (True, False, False)
    """
    owner, slash, name = path.partition("/")
    return (
        bool(slash and owner and name) and "/" not in name and owner[0] not in ".~" and Path(name).suffix not in READERS
    )


def _hub(name: str) -> dict[Split, list[Raw | Fault]]:
    """A hub data set by the `datasets` package, which since version 4 cannot run a data set's own code."""
    try:
        import datasets
    except ImportError:
        raise _missing("datasets", f"to look for {name} on the hub, as no such file or folder is here") from None
    try:
        _ask_hub(name)
        loaded: Any = datasets.load_dataset(name)
    except Exception as error:  # the packages raise whatever their many loaders raise
        words = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        found = f"nothing of that name here, and the hub says: {words}"
        remedy = "Without a network, HF_HUB_OFFLINE=1 takes what is in the local cache."
        raise BadData(name, expected="a file, a folder or a hub data set", found=found, remedy=remedy) from None
    return {STEMS[key]: list(_hub_rows(f"{name}/{key}", loaded[key])) for key in loaded if key in STEMS}


def _ask_hub(name: str) -> None:
    """Ask once whether the data set is there: `datasets` would try for half a minute before it says so."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if not HF_HUB_OFFLINE:
        HfApi().dataset_info(name, timeout=10)


def _hub_rows(place: str, rows: Any) -> Rows:
    for number, row in enumerate(rows, start=1):
        yield Raw(Place(Path(place), number), row)
