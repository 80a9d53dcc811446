"""What is read is what torch reads, for every kind of file; what is damaged is one kind of error."""

from __future__ import annotations

import argparse
import io
import logging
import pickle
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files import torch_files
from pretrain.base.weight_files.torch_files import check_records, open_archive, open_torch_file, read_torch_file

pytestmark = pytest.mark.child


def contents(*more_dtypes: torch.dtype) -> dict:
    """What training scripts save."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    shared = torch.randn(6)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [shared, shared[2:4], torch.randn(4, 6)[:, ::2], torch.randn(3, 2).T],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "types": [
            torch.ones(3, dtype=d)
            for d in (
                torch.bfloat16,
                torch.float16,
                torch.int64,
                torch.uint8,
                torch.bool,
                torch.complex64,
                *more_dtypes,
            )
        ],
        "small": (torch.tensor(3), torch.zeros(0), torch.zeros(2, 0, 3)),
        "epoch": 7,
        "scalars": [None, True, -5, 1 << 70, 2.5, float("inf"), "text", b"\xff\x00", 1 + 2j],
        "tables": [OrderedDict(a=1), Counter("aab"), {1: 2, (3, 4): 5}, {6, 7}],
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
    }


def same(found, wanted) -> bool:
    if isinstance(wanted, torch.Tensor):
        same_values = (
            torch.equal(found.double(), wanted.double()) if wanted.is_floating_point() else torch.equal(found, wanted)
        )
        return same_values and (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found == wanted


@pytest.mark.parametrize("new", [True, False])
def test_everything_that_torch_reads_is_read_equal(tmp_path, new):
    path = tmp_path / "file.pth"
    more = (torch.uint16, torch.float8_e5m2) if new else ()  # torch itself cannot read these from the older format
    torch.save(contents(*more), path, _use_new_zipfile_serialization=new)
    assert same(read_torch_file(path), torch.load(path, weights_only=True))


def test_more_records_than_torch_allows_are_read_as_plain_values(tmp_path):
    path = tmp_path / "file.pth"
    content = {
        "opt": argparse.Namespace(lr=0.1, steps=[1]),
        "table": defaultdict(list, {"a": [1]}),
        "best": np.float64(0.5),
    }
    torch.save({**content, "array": np.arange(4)}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read_torch_file(path)
    assert (found["opt"].lr, found["table"], found["best"]) == (0.1, {"a": [1]}, 0.5)
    assert torch.equal(found["array"], torch.arange(4))


@pytest.mark.parametrize("dtype", [">f4", "<f2", ">i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickled_arrays_keep_values_order_and_type(tmp_path, dtype, order):
    value = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)
    (tmp_path / "file.pkl").write_bytes(pickle.dumps([value, np.array(3, dtype)], protocol=2))
    found, scalar = read_torch_file(tmp_path / "file.pkl")
    native = value.astype(np.dtype(dtype).newbyteorder("="))
    assert torch.equal(found, torch.from_numpy(np.ascontiguousarray(native))) and scalar.shape == ()


def test_tensors_lie_on_the_files_pages_and_writing_to_them_leaves_the_file_alone(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    before = path.read_bytes()
    found = read_torch_file(path)["w"]
    found.fill_(-1)
    path.unlink()  # the pages stay
    path.write_bytes(before)
    assert torch.equal(read_torch_file(path)["w"], torch.arange(1000.0)) and found.unique().tolist() == [-1]


def damaged(tmp_path):
    """A file with one flipped bit in `bad`, none in `good`."""
    path = tmp_path / "file.pth"
    good, bad = torch.arange(100.0), torch.arange(100.0) + 1000
    torch.save({"good": good, "bad": bad}, path)
    data = bytearray(path.read_bytes())
    data[data.index(bad.numpy().tobytes()) + 7] ^= 1
    path.write_bytes(bytes(data))
    assert not torch.equal(torch.load(path, weights_only=True)["bad"], bad)  # control: torch says nothing
    return path


def test_a_damaged_tensor_is_refused_when_all_are_read_or_when_it_is_used(tmp_path):
    path = damaged(tmp_path)
    with pytest.raises(CheckpointError, match="checksum of file/data/1"):
        read_torch_file(path)
    file = open_torch_file(path)
    file.verify([file.content["good"], file.content["good"][3:]])
    with pytest.raises(CheckpointError, match="checksum of file/data/1"):
        file.verify([file.content["bad"].view(10, 10).T])  # a view is still of this file


def test_a_copy_cannot_be_verified(tmp_path):
    path = damaged(tmp_path)
    file = open_torch_file(path)
    with pytest.raises(CheckpointError, match="copied before it was verified"):
        file.verify([file.content["bad"].clone()])


def test_a_damaged_pickle_is_refused_at_once(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"w": torch.arange(3.0), "epoch": 77}, path)
    path.write_bytes(path.read_bytes().replace(b"epoch", b"epock"))
    with pytest.raises(CheckpointError, match="checksum of file/data.pkl"):
        open_torch_file(path)


def test_other_kinds_of_zip_are_named(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2), check_trace=False)
    module.save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="TorchScript|no torch file"):
        read_torch_file(tmp_path / "script.pt")


def test_whatever_is_thrown_below_is_one_error_with_the_files_name(tmp_path, monkeypatch):
    path = tmp_path / "file.pth"
    torch.save({}, path)
    for error in (
        ValueError("a"),
        KeyError("b"),
        RuntimeError("c\nd"),
        OSError("e"),
        MemoryError(),
        RecursionError("f"),
    ):
        monkeypatch.setattr(torch_files, "open_archive", lambda path, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(CheckpointError, match=r"cannot read .*file\.pth"):
            read_torch_file(path)


def test_absent_and_folder_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="no weight file"):
        read_torch_file(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_torch_file(tmp_path)


def test_a_file_saved_without_checksums_is_refused_with_what_to_do(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(CheckpointError, match="set_crc32_options"):
        read_torch_file(tmp_path / "file.pth")
    torch.save({"a": torch.ones(3)}, tmp_path / "file.pth")
    assert torch.equal(read_torch_file(tmp_path / "file.pth")["a"], torch.ones(3))


# The zip around the tensors: what torch writes passes, every other arrangement of the same bytes is refused.


def saved() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.arange(50.0), "empty": torch.zeros(0), "b": torch.ones(3, dtype=torch.int64)}, stream)
    return stream.getvalue()


def offsets_of(tmp_path, content: bytes) -> dict[str, int]:
    (tmp_path / "zip").write_bytes(content)
    archive, offsets = open_archive(tmp_path / "zip")
    check_records(archive, offsets)
    return offsets


def test_records_begin_where_their_bytes_are(tmp_path):
    content = saved()
    offsets = offsets_of(tmp_path, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert set(offsets) == set(archive.namelist())
        for name, offset in offsets.items():
            assert content[offset:].startswith(archive.read(name))


def test_a_zip_that_python_wrote_is_read(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data.pkl", b"}.")
        with archive.open("x/large", "w", force_zip64=True) as file:
            file.write(b"abc")
    content = stream.getvalue()
    assert {name: content[at : at + 2] for name, at in offsets_of(tmp_path, content).items()} == {
        "x/data.pkl": b"}.",
        "x/large": b"ab",
    }


@pytest.mark.parametrize("where", ["before", "after", "between"])
def test_bytes_that_belong_to_nothing_are_refused(tmp_path, where):
    content = saved()
    at = {"before": 0, "after": len(content), "between": content.index(b"PK\x01\x02")}[where]
    for extra in (b"\0", b"PK\x05\x06", b"x" * 1000):
        with pytest.raises((CheckpointError, zipfile.BadZipFile)):
            offsets_of(tmp_path, content[:at] + extra + content[at:])


def test_every_flipped_bit_of_the_weights_and_of_the_pickle_is_found(tmp_path):
    content = saved()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = {record.filename: record.file_size for record in archive.infolist()}
    for name, offset in offsets_of(tmp_path, content).items():
        for at in range(offset, offset + sizes[name], 7):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            with pytest.raises(CheckpointError, match="checksum"):
                offsets_of(tmp_path, bytes(damaged))


@pytest.mark.parametrize("size", [4, 10, 22, 300, 1000])
def test_a_cut_zip_is_refused(tmp_path, size):
    (tmp_path / "zip").write_bytes(saved()[:size])
    with pytest.raises(CheckpointError):
        read_torch_file(tmp_path / "zip")


def test_compressed_records_and_an_index_without_end_are_refused(tmp_path, monkeypatch):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"0" * 1_000_000)
    assert len(stream.getvalue()) < 2000  # a bomb's ratio
    with pytest.raises(CheckpointError, match="compressed"):
        offsets_of(tmp_path, stream.getvalue())
    monkeypatch.setattr(torch_files, "MAX_INDEX", 100)
    with pytest.raises(CheckpointError, match="index is larger"):
        offsets_of(tmp_path, saved())


# The caps of the child, and the errors of one that was stopped.

HEAVY = b"\x80\x02(" + b"]" * 900_000 + b"t0}."  # 900 thousand lists
FOREVER = "import sys; sys.path.insert(0, sys.argv[1]); from pretrain.base.weight_files.pickle_child import limit; limit(1 << 30, 1, 1 << 20)\nwhile True: pass"


@pytest.fixture
def heavy(tmp_path):
    (tmp_path / "heavy.pkl").write_bytes(HEAVY)
    return tmp_path / "heavy.pkl"


@pytest.mark.skipif(sys.platform != "linux", reason="caps on memory are exact on Linux only")
def test_memory_beyond_the_cap_is_refused(heavy, monkeypatch):
    assert read_torch_file(heavy) == {}  # the control, with the usual cap
    monkeypatch.setattr(torch_files, "BASE_MEMORY", 60 << 20)
    monkeypatch.setattr(torch_files, "MEMORY_PER_BYTE", 0)
    with pytest.raises(CheckpointError, match="memory"):
        read_torch_file(heavy)


@pytest.mark.parametrize(
    ("program", "seconds", "message"),
    [
        ("import time; time.sleep(60)", 0, "took more than 0 s"),
        pytest.param(FOREVER, 30, r"stopped \(SIG(XCPU|KILL); its caps are", marks=pytest.mark.slow),
        ("raise ValueError('no luck')", 30, "failed .ValueError: no luck"),
    ],
    ids=["waits", "works without end", "fails"],
)
def test_a_child_that_gives_no_plan_is_an_error(heavy, monkeypatch, program, seconds, message):
    monkeypatch.setattr(torch_files, "START", [*torch_files.START[:3], "-c", program, torch_files.START[-1]])
    monkeypatch.setattr(torch_files, "BASE_SECONDS", seconds)
    with pytest.raises(CheckpointError, match=rf"cannot read .*heavy\.pkl: .*{message}"):
        read_torch_file(heavy)


def test_a_system_without_caps_is_warned_of(heavy, monkeypatch, caplog):
    without = [
        part.replace("from pretrain", "sys.modules['resource'] = None; from pretrain") for part in torch_files.START
    ]
    monkeypatch.setattr(torch_files, "START", without)
    with caplog.at_level(logging.WARNING):
        read_torch_file(heavy)
    assert "no caps on a process" in caplog.text


def test_a_pickle_larger_than_any_weights_is_not_started(heavy, monkeypatch):
    monkeypatch.setattr(torch_files, "MAX_BYTES", 1)
    with pytest.raises(CheckpointError, match="at most 1 are read"):
        read_torch_file(heavy)
