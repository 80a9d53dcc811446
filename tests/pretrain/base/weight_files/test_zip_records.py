"""A torch zip is read strictly: what torch writes passes, every other arrangement of the same bytes is refused."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from pretrain.base.weight_files.zip_records import ZipError, check_checksums, read_records

TENSORS = {"a": torch.arange(50.0), "empty": torch.zeros(0), "b": torch.ones(3, dtype=torch.int64)}


def saved() -> bytes:
    stream = io.BytesIO()
    torch.save(TENSORS, stream)
    return stream.getvalue()


def records_of(content: bytes):
    file = io.BytesIO(content)
    records = read_records(file)
    check_checksums(file, records)
    return records


def test_records_are_those_that_pythons_zipfile_finds():
    content = saved()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name, record in records_of(content).items():
            assert content[record.offset : record.offset + record.size] == archive.read(name)
        assert set(records_of(content)) == set(archive.namelist())


def test_a_zip_that_python_wrote_is_read():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data.pkl", b"}.")
        with archive.open("x/large", "w", force_zip64=True) as file:
            file.write(b"abc")
    assert {name: record.size for name, record in records_of(stream.getvalue()).items()} == {
        "x/data.pkl": 2,
        "x/large": 3,
    }


@pytest.mark.parametrize("extra", [b"\0", b"PK\x05\x06", b"x" * 1000])
@pytest.mark.parametrize("where", ["before", "after", "between"])
def test_bytes_that_belong_to_nothing_are_refused(extra, where):
    content = saved()
    at = {"before": 0, "after": len(content), "between": content.index(b"PK\x01\x02")}[where]
    with pytest.raises(ZipError):
        records_of(content[:at] + extra + content[at:])


def test_every_flipped_bit_of_the_weights_and_of_the_pickle_is_found():
    content = saved()
    for record in records_of(content).values():
        for at in range(record.offset, record.offset + record.size, 7):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            with pytest.raises(ZipError, match="checksum"):
                records_of(bytes(damaged))


@pytest.mark.parametrize("size", [0, 10, 21, 22, 300, 1000])
def test_a_cut_zip_is_refused(size):
    with pytest.raises(ZipError):
        records_of(saved()[:size])


def test_compressed_records_are_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"0" * 1_000_000)
    assert len(stream.getvalue()) < 2000  # a bomb's ratio
    with pytest.raises(ZipError, match="compressed"):
        records_of(stream.getvalue())
