"""No reader holds a file whole, and what it gives does not depend on how much it holds."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlxtune.data.files import read
from mlxtune.data.readers import json_values, unicode
from mlxtune.data.readers.raw import Raw
from mlxtune.errors import BadData
from tests.support import big

ROWS = [{"text": 'a "b" \\ \u2028 é 😀', "n": [1, -2.5e-10, True, None, {"x": []}]}, {"n": 12345678901234567890}, {}]
OFTEN = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LAYOUTS = (
    json.dumps(ROWS),
    json.dumps(ROWS, indent=3, ensure_ascii=False),
    "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "[" + ",\r\n".join(json.dumps(row) for row in ROWS * 3) + "\n]\n",
)


def made(path: Path) -> list[Any]:
    """The rows of a list of JSON, or of values of several lines, and how the reading ended."""
    found: list[Any] = []
    try:
        rows = json_values.rows(path)
        found.extend((str(each.place), each.value if isinstance(each, Raw) else each.found) for each in rows)
    except BadData as error:
        found.append(str(error))
    return found


@OFTEN
@given(
    text=st.sampled_from(LAYOUTS),
    change=st.none()
    | st.tuples(st.integers(0, 600), st.sampled_from(['"', "]", "}", ",", "\\", "9", "\n", "\\ud800", ""])),
    block=st.integers(1, 90),
)
@example(text='[{"a": 1, "a": 2}, {"a": 12}]', change=None, block=1)
@example(text='[{"a": ' + "9" * 5000 + "}]", change=None, block=7)
@example(text="[" + "[" * 3000, change=None, block=64)
@example(text='[{"text": tru}]', change=None, block=2)
def test_a_list_is_read_the_same_however_little_of_it_is_held(
    text: str, change: tuple[int, str] | None, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change is not None:
        text = text[: change[0]] + change[1] + text[change[0] + 1 :]
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    monkeypatch.setattr(json_values, "BLOCK", 10**6)
    whole = made(path)
    monkeypatch.setattr(json_values, "BLOCK", block)
    assert made(path) == whole


def test_a_fault_of_a_list_has_its_line_and_column_wherever_it_is(tmp_path: Path) -> None:
    row = json.dumps({"text": "x" * 1000})
    path = tmp_path / "a.json"
    path.write_text("[" + ",".join([row] * 500) + ',{"text" 3}]')
    column = 1 + 500 * (len(row) + 1) + len('{"text" ') + 1
    assert (
        made(path)[-1] == f"{path}:1: expected JSON objects, found `3}}]` (Expecting ':' delimiter, column {column})."
    )
    path.write_text("[" + ",\n".join([row] * 500) + ',\n{"text" 3}]')
    assert made(path)[-1].startswith(
        f"{path}:501: expected JSON objects, found `3}}]` (Expecting ':' delimiter, column 9)"
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-le"])
def test_text_of_another_encoding_is_recoded_as_it_comes(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(json.dumps({"text": f"{n} é 😀"}, ensure_ascii=False) + "\n" for n in range(100))
    (tmp_path / "a.jsonl").write_bytes(text.encode(encoding))
    for block in (1, 3, 2**16):
        monkeypatch.setattr(unicode, "BLOCK", block)
        rows = [raw.value for raw in read(str(tmp_path / "a.jsonl")).splits["train"]]  # type: ignore[union-attr]
        assert rows == [json.loads(line) for line in text.split("\n")[:-1]]
    (tmp_path / "a.jsonl").write_bytes(text.encode(encoding)[:-1])
    with pytest.raises(BadData, match=r"a\.jsonl:100: expected UTF-(16|32)-(LE|BE) text"):
        list(read(str(tmp_path / "a.jsonl")).splits["train"])


SIZE, MOST = 100_000_000, 50_000_000  # bytes: of a file unpacked, and of memory
NAMES = ("a.jsonl", "a.json", "line.json", "a.csv", "wide.jsonl", "a.parquet", "a.arrow")
PACKED = ("a.jsonl.gz", "line.json.zst", "a.parquet.gz")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *PACKED])
def test_a_large_file_is_read_in_little_memory(name: str, tmp_path: Path) -> None:
    rows, taken = big.taken(big.write(tmp_path / name, SIZE))
    assert rows == SIZE // big.ROW
    assert taken < MOST
