"""Documents from outside are read within limits, or refused in one message that names the file."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
from pydantic.dataclasses import dataclass

from mlxtune.errors import BadModel, BadRun, BadSetting, Faults
from mlxtune.storage.documents import Limits, Unreadable, check, parse_object, read_object, user_path
from mlxtune.storage.strict_yaml import load_yaml, scalar

MANY = 5000

JSON = {
    "not json": b"{",
    "a list": b"[1]",
    "nothing": b"",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a name twice": b'{"a": 1, "a": 2}',
    "a name twice inside": b'{"x": [{"a": 1, "a": 2}]}',
    "nested without end": b'{"a":' * 100_000,
    "nested deeply": b'{"a":' * 70 + b"1" + b"}" * 70,
    "a number of 5,000 digits": b'{"a": ' + b"9" * MANY + b"}",
    "a number of 50 digits": b'{"a": ' + b"9" * 50 + b"}",
    "half a surrogate pair": rb'{"a": "\ud800"}',
    "half a surrogate pair as name": rb'{"\uDFFF": 1}',
    "a NUL": b"\0",
}

YAML = {
    "a float that is none": "a: !!float x",
    "an int that is none": "a: !!int ''",
    "a truth that is none": "a: !!bool maybe",
    "a map that is none": "a: !!map [1]",
    "a list that is none": "a: !!seq {b: 1}",
    "a python object": "a: !!python/object/apply:os.system ['true']",
    "a python name": "a: !!python/name:os.system",
    "bytes": "a: !!binary aGk=",
    "a set": "a: !!set {b, c}",
    "a tag of its own": "a: !mine b",
    "a list as key": "? [1, 2]\n: 3",
    "a section as key": "? {a: 1}\n: 3",
    "a number as key": "1: 2",
    "nothing as key": "~: 2",
    "a key twice": "a: 1\na: 2",
    "a key of many letters": "x" * 300 + ": 1",
    "a number of 5,000 digits": "a: " + "9" * MANY,
    "a number of 50 digits": "a: " + "9" * 50,
    "a number of base 60 without end": "a: 1" + ":59" * 200,
    "nested without end": "[" * 50_000,
    "nested by indentation": "\n".join(" " * n + "a:" for n in range(200)),
    "aliases that multiply": "a: &a [1,2,3,4,5,6,7,8,9]\n"
    + "\n".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "an alias of itself": "a: &a [*a]",
    "an alias of nothing": "a: *b",
    "a merge": "a: &a {b: 1}\nc: {<<: *a}",
    "not UTF-8": b"a: \xff",
    "a NUL": b"a: \0",
    "a control code": b"a: \x1b[31m",
    "an escape beyond Unicode": 'a: "\\UFFFFFFFF"',
    "half a surrogate pair": 'a: "\\ud800"',
    "a version without end": "%YAML " + "9" * MANY + ".1\n---\na: 1",
    "two documents": "a: 1\n---\nb: 2",
    "a list": "- a",
    "a text": "hello",
    "more than is read": "a: " + "b" * 200_000,
}


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def is_short_and_names(error: pytest.ExceptionInfo[BaseException], path: Path) -> None:
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json_that_is_not_taken_is_refused_in_one_short_message(text, tmp_path):
    path = written(tmp_path / "config.json", text)
    with pytest.raises(BadModel) as error:
        read_object(path, BadModel)
    is_short_and_names(error, path)


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_yaml_that_is_not_taken_is_refused_in_one_short_message_within_a_second(text, tmp_path):
    path = written(tmp_path / "recipe.yaml", text)
    began = time.process_time()
    with pytest.raises(BadSetting) as error:
        load_yaml(path)
    is_short_and_names(error, path)
    assert time.process_time() - began < 1


def test_a_date_and_its_impossible_kin_are_texts(tmp_path):
    path = written(tmp_path / "recipe.yaml", "a: 2024-01-01\nb: 2024-99-99\nc: 2001-12-14t21:59:43.10-05:00")
    assert load_yaml(path) == {"a": "2024-01-01", "b": "2024-99-99", "c": "2001-12-14t21:59:43.10-05:00"}


def test_an_alias_is_read_where_it_stays_small(tmp_path):
    assert load_yaml(written(tmp_path / "r.yaml", "a: &x {b: 1}\nc: *x")) == {"a": {"b": 1}, "c": {"b": 1}}


def test_what_is_no_yaml_is_a_text_as_a_value():
    assert scalar("[" * 100) == "[" * 100
    assert scalar("!!python/name:os.system") == "!!python/name:os.system"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(path))
    held.close()


PLACES = {
    "a folder": (Path.mkdir, "a folder"),
    "a pipe": (fifo, "a pipe"),
    "a socket": (a_socket, None),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    "a link to itself": (lambda path: path.symlink_to(path), "Too many levels"),
    "nothing": (lambda _: None, "no such file"),
}


@pytest.mark.skipif(os.name == "nt", reason="a POSIX system's files")
@pytest.mark.parametrize("read", [read_object, load_yaml])
@pytest.mark.parametrize(("make", "words"), PLACES.values(), ids=PLACES)
def test_what_is_no_file_is_refused_at_once_by_its_kind(make, words, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name has a hundred letters at most
    path = Path("given")
    make(path)
    with pytest.raises(BadRun, match=words):
        read(path, BadRun)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", "file.json/inside"])
def test_a_name_that_no_file_can_have_is_refused(name, tmp_path):
    (tmp_path / "file.json").touch()
    with pytest.raises(BadModel):
        read_object(tmp_path / name, BadModel)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", "~nouser", "file/inside"])
def test_a_path_that_no_file_can_have_is_refused_before_it_is_used(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(BadRun, match="expected a path"):
        user_path(name, BadRun)


def test_a_path_with_nothing_there_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/new", BadRun) == tmp_path / "new"


def test_a_document_has_a_limit_on_its_bytes_and_its_values(tmp_path):
    path = written(tmp_path / "a.json", json.dumps({"a": [1] * 100}))
    assert read_object(path, BadModel)["a"] == [1] * 100
    with pytest.raises(BadModel, match="at most 50 bytes"):
        read_object(path, BadModel, Limits(bytes=50))
    with pytest.raises(Unreadable, match="more"):
        parse_object(path.read_bytes(), Limits(values=50))


@dataclass
class Sizes:
    layers: int
    names: list[str]


def test_a_schema_names_the_file_and_the_key_of_every_fault():
    assert check({"layers": 2, "names": ["a"]}, Sizes, "x.json", BadModel).layers == 2
    with pytest.raises(Faults) as error:
        check({"layers": "many", "names": ["a", 7]}, Sizes, "x.json", BadModel)
    assert [fault.where for fault in error.value.faults] == ["x.json: layers", "x.json: names.1"]
    with pytest.raises(BadModel, match=r"x.json: names: expected this key, found none"):
        check({"layers": 2}, Sizes, "x.json", BadModel)
