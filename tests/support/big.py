"""Large data files, and how much memory it takes to read one. Run as a program it reads the file that it is given."""

import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROW = 400  # characters, about


def rows(n_bytes: int) -> Iterator[dict[str, str]]:
    """Rows of words that shrink to a third."""
    words = random.Random(0).choices([f"w{number:04x}" for number in range(5000)], k=100_000)
    for number in range(n_bytes // ROW):
        begin = number * 37 % 99_000
        yield {
            "prompt": f"{number} {' '.join(words[begin : begin + 30])}",
            "completion": " ".join(words[begin : begin + 35]),
        }


def write(path: Path, n_bytes: int) -> Path:
    """A file of the kind that its name says, of about so many bytes when unpacked."""
    name = path.name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz").removesuffix(".zst")
    if name.endswith((".parquet", ".arrow")):
        _table(path if name == path.name else path.with_name(name), n_bytes)
        if name != path.name:
            with path.with_name(name).open("rb") as plain, _packed(path) as file:
                while block := plain.read(2**20):
                    file.write(block)
        return path
    with _packed(path) as file:
        for line in _lines(name, n_bytes):
            file.write(line.encode("utf-16-le" if name.startswith("wide") else "utf-8"))
    return path


def _packed(path: Path) -> Any:
    if path.suffix == ".zst":
        import zstandard

        return zstandard.open(path, "wb")
    kinds: dict[str, Any] = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
    if path.suffix not in kinds:
        return path.open("wb")
    return kinds[path.suffix].open(path, "wb", **({"preset": 1} if path.suffix == ".xz" else {"compresslevel": 1}))


def _lines(name: str, n_bytes: int) -> Iterator[str]:
    if name.startswith("wide"):
        yield "\ufeff"
    if name.endswith((".csv", ".tsv")):
        mark = "\t" if name.endswith(".tsv") else ","
        yield f"prompt{mark}completion\n"
        for row in rows(n_bytes):
            yield f"{row['prompt']}{mark}{row['completion']}\n"
        return
    is_list, between = name.endswith(".json"), ", " if name.startswith("line") else ",\n "
    for number, row in enumerate(rows(n_bytes)):
        yield (between if number else "[") * is_list + json.dumps(row) + "\n" * (not is_list)
    yield "]" * is_list


def _table(path: Path, n_bytes: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("prompt", pa.string()), ("completion", pa.string())])
    every = list(rows(n_bytes)) if path.suffix == ".parquet" else rows(n_bytes)
    with ExitStack() as stack:
        if path.suffix == ".parquet":  # one row group, as a table that is written at once has
            pq.write_table(pa.Table.from_pylist(every, schema), path, compression="snappy", use_dictionary=False)
            return
        writer = stack.enter_context(pa.ipc.new_stream(str(path), schema))
        batch: list[dict[str, str]] = []
        for row in every:
            batch.append(row)
            if len(batch) == 1000:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                batch.clear()
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def taken(path: Path | str) -> tuple[int, int]:
    """Rows of a file, and bytes of memory that reading them takes beyond the imports, in a process of its own."""
    command, checkout = [sys.executable, "-m", "tests.support.big", str(path)], Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout)
    return found["rows"], found["bytes"]


def _peak() -> int:
    """Most resident bytes. Linux's getrusage begins with those of the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main(path: str) -> None:
    from mlxtune.data.files import read

    if ".parquet" in path or ".arrow" in path:
        import pyarrow.parquet  # noqa: F401
    before = _peak()
    count = sum(1 for _ in read(path).splits["train"])
    print(json.dumps({"rows": count, "bytes": _peak() - before}))


if __name__ == "__main__":
    _main(sys.argv[1])
