import json
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from mlxtune.errors import BadModel, Faults
from mlxtune.models import weights
from mlxtune.models.weights import headers
from tests.support.assets import assets_folder
from tests.support.model import some_tensors, write_json, write_model, write_weights


@pytest.mark.parametrize("shards", [1, 3])
def test_headers_are_those_that_the_safetensors_library_reads(tmp_path, shards):
    folder = write_model(tmp_path, shards)
    found = headers(folder)
    assert set(found) == set(some_tensors())
    for name, info in found.items():
        with safe_open(info.file, "np") as file:
            tensor = file.get_tensor(name)
        assert (info.dtype, info.shape, info.bytes) == ("F32", tensor.shape, tensor.nbytes)
        begin, end = info.offsets
        assert info.file.read_bytes()[begin:end] == tensor.tobytes()


def test_headers_of_a_real_model():
    found = headers(assets_folder() / "models" / "stories260K")
    assert sum(np.prod(info.shape) for info in found.values()) == 260_032


def test_every_dtype_that_numpy_can_write_is_read(tmp_path):
    kinds = ("bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
    save_file(
        {kind: np.zeros((3, 5), kind) for kind in kinds} | {"none": np.zeros((0, 4))}, tmp_path / "model.safetensors"
    )
    assert {info.bytes for info in headers(tmp_path).values()} == {0, 15, 30, 60, 120}


def test_every_missing_shard_is_named(tmp_path):
    folder = write_model(tmp_path, shards=4)
    for number in (2, 4):
        (folder / f"model-0000{number}-of-00004.safetensors").unlink()
    with pytest.raises(BadModel, match=r"model-00002-of-00004\.safetensors, model-00004-of-00004\.safetensors"):
        headers(folder)
    (folder / weights.INDEX).unlink()  # the shards' own numbering tells it too
    with pytest.raises(BadModel, match=r"model-00002-of-00004\.safetensors"):
        headers(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    folder = write_model(tmp_path, shards=2)
    write_weights(folder, some_tensors())
    with pytest.raises(Faults, match=r"4 tensors in more than one of .*model\.safetensors"):
        headers(folder)


def test_an_index_that_names_tensors_which_the_shard_lacks_is_refused(tmp_path):
    folder = write_model(tmp_path, shards=2)
    index = json.loads((folder / weights.INDEX).read_text())
    index["weight_map"]["ghost"] = "model-00001-of-00002.safetensors"
    write_json(folder / weights.INDEX, index)
    with pytest.raises(BadModel, match=r"found 1 that are not there: ghost \(model-00001-of-00002\.safetensors\)"):
        headers(folder)


@pytest.mark.parametrize("kept", [0, 5, 100, 60_000])
def test_a_truncated_file_is_told_with_both_sizes(tmp_path, kept):
    folder = write_model(tmp_path)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(BadModel) as caught:
        headers(folder)
    assert str(path) in str(caught.value)
    if kept == 60_000:
        assert f"expected {len(whole):,} bytes, as the header says, found 60,000 bytes" in str(caught.value)


def test_the_faults_of_all_files_are_told_at_once(tmp_path):
    folder = write_model(tmp_path, shards=3)
    for number in (1, 3):
        path = folder / f"model-0000{number}-of-00003.safetensors"
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(Faults) as caught:
        headers(folder)
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"PK\x03\x04" + b"x" * 50, "a pickle"),
        (b"\x80\x02}q\x00." + b"x" * 50, "a pickle"),
        (b"<html>404</html>" * 4, "64 bytes that start with b'<html>40'"),
        (b"", "an empty file"),
        (struct.pack("<Q", 4) + b"{{{{", "a header that is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "a header that is not JSON"),
        (struct.pack("<Q", 2) + b"{}" + b"more", "4 too many"),
    ],
)
def test_garbage_is_told_for_what_it_is(tmp_path, data, told):
    folder = write_model(tmp_path)
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(BadModel, match=told):
        headers(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        None,
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**15, "1" * 10, 10**9], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
    ],
)
def test_an_entry_that_makes_no_sense_is_named(tmp_path, entry):
    text = json.dumps({"odd": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(BadModel, match=r"model\.safetensors: odd: expected a known dtype"):
        headers(tmp_path)


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("pytorch_model.bin", "safe_serialization"),
        ("model.gguf", "GGUF"),
        ("weights.safetensors", "Rename a single file"),
        ("nothing.txt", "Weights are the files"),
    ],
)
def test_weights_in_another_form_are_refused_with_a_remedy(tmp_path, file, remedy):
    (tmp_path / file).touch()
    with pytest.raises(BadModel, match=remedy) as caught:
        headers(tmp_path)
    assert file in str(caught.value)
