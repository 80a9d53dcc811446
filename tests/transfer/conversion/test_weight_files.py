"""Weight files of every format are recognised by their bytes; damage of every kind is one clear error."""

from __future__ import annotations

import argparse
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pretrain.base.errors import CheckpointError
from transfer.conversion.weight_files import file_sha256, read_weight_file

pytestmark = pytest.mark.child
TENSORS = {"conv1.weight": torch.randn(4, 3, 2, 2), "bn1.bias": torch.randn(4)}


def write(path, kind):
    """A file of `kind` with TENSORS."""
    if kind == "torch zip":
        torch.save(TENSORS, path)
    elif kind == "old torch":
        torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        save_file(TENSORS, path)
    else:
        path.write_bytes(pickle.dumps({name: t.numpy() for name, t in TENSORS.items()}, protocol=2))
    return path


KINDS = ["torch zip", "old torch", "safetensors", "pickle"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_tensors_whatever_its_name(tmp_path, kind):
    found = read_weight_file(write(tmp_path / "file.unknown", kind))
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_one_clear_error(tmp_path, kind):
    whole = write(tmp_path / "file", kind).read_bytes()
    for size in (len(whole) // 4, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut"):
            read_weight_file(tmp_path / "cut")


def test_one_flipped_bit_in_the_weights_is_found(tmp_path):
    path = write(tmp_path / "file.pth", "torch zip")
    data = bytearray(path.read_bytes())
    at = data.find(TENSORS["conv1.weight"].numpy().tobytes())
    data[at + 5] ^= 1
    path.write_bytes(data)
    assert not torch.equal(
        torch.load(path, weights_only=True)["conv1.weight"], TENSORS["conv1.weight"]
    )  # torch: silent
    with pytest.raises(CheckpointError, match="checksum"):
        read_weight_file(path)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_raise_nothing_but_our_error(tmp_path, kind):
    """A few with the real child process; test_weight_fuzz.py has the thousands."""
    whole = write(tmp_path / "file", kind).read_bytes()
    rng = random.Random(0)
    path, refused = tmp_path / "mutated", 0
    for _ in range(8):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read_weight_file(path)
        except CheckpointError:
            refused += 1
    assert refused > 2


def test_a_torch_file_with_a_malicious_object_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    torch.save({"state_dict": TENSORS, "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        read_weight_file(tmp_path / "evil.pth")
    assert not (tmp_path / "canary").exists()


def test_the_options_that_old_scripts_store_are_read(tmp_path):
    torch.save({"opt": argparse.Namespace(lr=0.03), "model": TENSORS}, tmp_path / "old.pth")
    assert read_weight_file(tmp_path / "old.pth")["opt"].lr == 0.03


def test_absent_empty_folder_and_foreign_files_are_told_apart(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text.pth").write_text("hello, this is no weight file at all")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    for name, message in {
        "absent": "no weight file at",
        ".": "is a folder",
        "empty": "0 bytes",
        "text.pth": "no weight file",
        "photos.zip": "cannot read",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_weight_file(tmp_path / name)


def test_a_git_lfs_pointer_is_named_with_what_to_do(tmp_path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 94000000\n"
    (tmp_path / "resnet.pth").write_text(pointer)
    with pytest.raises(CheckpointError, match=r"Git LFS pointer of \d+ bytes.*git lfs pull"):
        read_weight_file(tmp_path / "resnet.pth")


def test_integers_and_strings_of_a_pickle_stay_what_they_are(tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"__author__": "someone", "n": 3, "model": {"w": np.zeros(2)}}, protocol=2))
    found = read_weight_file(path)
    assert (found["__author__"], found["n"]) == ("someone", 3) and isinstance(found["model"]["w"], torch.Tensor)


def test_sha256_is_the_files(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")
