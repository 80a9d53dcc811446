"""Folders, scans and the loader: what is read, what is refused, and that workers change nothing."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.base import image_files
from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from pretrain.data import loader as data
from pretrain.data import source
from pretrain.data.loader import ViewBatch, ViewDataset, build_loader, on_device
from pretrain.data.order import GlobalBatches, RankBatches
from pretrain.data.source import ClassFolders, ImageSource, list_images, scan_images
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipes import RECIPES

SEED = 5


@pytest.fixture
def folder(tmp_path):
    """Twelve PNGs of noise in two nested folders."""
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "images" / ("b" if number % 2 else "a/deep") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def dataset_of(folder, *, patch_size=16, seed=SEED, skip_unreadable=False):
    views = ViewMaker(RECIPES["infomin"], image_size=32, patch_size=patch_size)
    return ViewDataset(ImageSource(folder), views, seed=seed, skip_unreadable=skip_unreadable)


def damage(path):
    """Flip bytes in the middle, so that the header and the end are those of a whole file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(bytes(content))


def batches_of(dataset, *, num_workers=0, from_step=0, num_steps=4):
    order = GlobalBatches(len(dataset), 5, seed=SEED)
    sampler = RankBatches(order, rank=0, world_size=1, from_step=from_step, num_steps=num_steps)
    return list(build_loader(dataset, sampler, num_workers=num_workers))


def same(first, second):
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("index", "images", "patches", "permutation")
    )


def test_listing_is_recursive_sorted_and_by_suffix(folder):
    (folder / "c.JPG").touch()
    (folder / "notes.txt").touch()
    (folder / "._c.jpg").touch()
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").touch()
    names = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    assert names == sorted(names) and len(names) == 13 and "c.JPG" in names and "a/deep/00.png" in names


def test_linked_folders_are_followed_and_circles_end(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "images").symlink_to(folder)
    (folder / "loop").symlink_to(folder)
    assert len(list_images(tmp_path / "linked")) == 12


def test_missing_and_empty_folders_say_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"gone: expected a folder of images, found nothing.*data\.root=FOLDER"):
        list_images(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="found a file"):
        list_images(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image in this folder.*\.jpeg \.jpg.*\.png"):
        list_images(tmp_path / "empty")


def test_source_is_a_frozen_listing(folder):
    source = ImageSource(folder)
    assert len(source) == 12 and source[3] == source.paths[3] == list_images(folder)[3]
    (folder / "later.png").touch()
    assert len(source) == 12
    less = source.less([source.name(3)])
    assert len(less) == 11 and source[3] not in less.paths
    with pytest.raises(DataError, match="none of the 12 images"):
        source.less(source.names)


def test_fingerprint_follows_names_and_sizes(folder):
    before = ImageSource(folder).fingerprint()
    assert before == ImageSource(folder).fingerprint()
    path = folder / "b" / "01.png"
    path.write_bytes(path.read_bytes() + b"x")
    grown = ImageSource(folder).fingerprint()
    path.rename(folder / "b" / "renamed.png")
    assert len({before, grown, ImageSource(folder).fingerprint()}) == 3


def test_a_name_that_is_not_utf_8_has_a_fingerprint(tmp_path):
    names = [os.fsdecode(b"a\xff.png"), os.fsdecode(b"a\xfe.png")]
    assert len({ImageSource(tmp_path, (name,)).fingerprint() for name in names}) == 2


def test_scan_names_and_counts_what_cannot_be_read(folder, monkeypatch):
    monkeypatch.setattr(source, "NAMED_UNREADABLE", 1)
    (folder / "b" / "01.png").write_bytes(b"")
    (folder / "b" / "03.png").write_bytes((folder / "b" / "03.png").read_bytes()[:400])
    report = scan_images(ImageSource(folder).paths)
    assert report.num_ok == 10
    assert [path.name for path, _ in report.bad] == ["01.png", "03.png"]
    assert "empty" in report.bad[0][1] and "truncated" in report.bad[1][1]
    text = report.describe()
    assert "2 of 12 images cannot be read" in text and "01.png: the file is empty" in text
    assert "and 1 more" in text and "data.skip_unreadable=true" in text
    assert scan_images([path for path in ImageSource(folder).paths if path not in dict(report.bad)]).bad == ()


def test_scan_decodes_no_file_that_looks_whole(folder, monkeypatch):
    def decode(file, name, max_pixels):
        raise AssertionError(f"decoded {name}")

    monkeypatch.setattr(image_files, "_decode", decode)
    assert scan_images(ImageSource(folder).paths).num_ok == 12
    cut = folder / "b" / "03.png"
    cut.write_bytes(cut.read_bytes()[:400])
    with pytest.raises(AssertionError, match=r"03\.png"):  # the control: a file without its end is decoded
        scan_images(ImageSource(folder).paths)


def test_class_folders_are_labelled_in_order(folder):
    loaded = ClassFolders.load(folder)
    assert loaded.classes == ("a", "b") and loaded.labels == (0,) * 6 + (1,) * 6
    assert all(
        path.relative_to(folder).parts[0] == loaded.classes[label]
        for path, label in zip(loaded.paths, loaded.labels, strict=True)
    )


def test_class_folders_without_classes_or_images_are_refused(folder):
    with pytest.raises(DataError, match="one folder a class"):
        ClassFolders.load(folder / "b")
    with pytest.raises(DataError, match="one folder a class"):
        ClassFolders.load(folder / "gone")
    (folder / "z").mkdir()
    with pytest.raises(DataError, match="z: no image"):
        ClassFolders.load(folder)


def test_batch_holds_the_views_of_its_samples_in_order(folder):
    dataset = dataset_of(folder)
    batch = batches_of(dataset, num_steps=1)[0]
    assert batch.images.shape == (5, 2, 3, 32, 32) and batch.patches.shape == (5, 9, 3, 16, 16)
    assert batch.images.dtype == batch.patches.dtype == torch.uint8
    assert batch.index.tolist() == GlobalBatches(12, 5, seed=SEED).batch(0)[1].tolist()
    for row, index in enumerate(batch.index.tolist()):
        expected = dataset.views(read_image(dataset.source[index]), seed=SEED, epoch=0, index=index)
        assert torch.equal(batch.images[row], expected.images)
        assert torch.equal(batch.patches[row], expected.patches)
        assert torch.equal(batch.permutation[row], expected.permutation)


@pytest.mark.parametrize("limit", [{"GROUP_IMAGES": 2}, {"GROUP_BYTES": 2 * 40 * 50 * 3}, {"GROUP_BYTES": 1}, {}])
def test_how_many_images_are_decoded_together_changes_no_byte_and_is_limited(folder, monkeypatch, limit):
    """Batches of 11 whose patches are those of images 0 to 2 and 6 to 8: groups begin and end inside of both shares."""
    dataset = ViewDataset(ImageSource(folder), every_views(), seed=SEED, jigsaw_images=3, micro_batches=2)
    keys = [(1, index) for index in (7, 3, 1, 11, 0, 5, 2, 9, 4, 8, 10)]
    for name, value in limit.items():
        monkeypatch.setattr(data, name, value)
    together, write = [], ViewMaker.write
    with monkeypatch.context() as patched:
        patched.setattr(
            ViewMaker,
            "write",
            lambda self, images, *a, **k: together.append(len(images)) or write(self, images, *a, **k),
        )
        batch = dataset[keys]
    assert max(together) == {2: 2, 2 * 40 * 50 * 3: 2, 1: 1}.get(next(iter(limit.values()), None), 11)
    assert sum(together) == 11
    alone = [
        dataset.views(read_image(dataset.source[index]), seed=SEED, epoch=epoch, index=index) for epoch, index in keys
    ]
    assert torch.equal(batch.images, torch.stack([one.images for one in alone]))
    with_patches = [alone[place] for place in (0, 1, 2, 6, 7, 8)]
    assert torch.equal(batch.patches, torch.stack([one.patches for one in with_patches]))
    assert torch.equal(batch.permutation, torch.stack([one.permutation for one in with_patches]))


def test_batches_without_patches_carry_none(folder):
    batch = batches_of(dataset_of(folder, patch_size=None), num_steps=1)[0].to(torch.device("cpu"))
    assert batch.patches is None and batch.permutation is None


def test_views_depend_on_epoch_and_seed(folder):
    dataset = dataset_of(folder)
    batch = dataset[[(0, 3), (0, 3), (1, 3), (0, 4)]].images
    assert torch.equal(batch[0], batch[1])
    others = (batch[2], batch[3], dataset_of(folder, seed=6)[[(0, 3)]].images[0])
    assert not any(torch.equal(batch[0], other) for other in others)


@pytest.mark.slow
def test_workers_and_restarts_change_no_pixel(folder):
    damage(folder / "b" / "05.png")
    dataset = dataset_of(folder, skip_unreadable=True)
    alone = batches_of(dataset)
    assert len(alone) == 4 and any(batch.unreadable for batch in alone)  # two epochs of two batches
    assert all(map(same, alone, batches_of(dataset, num_workers=2)))
    assert all(map(same, alone[3:], batches_of(dataset, num_workers=2, from_step=3, num_steps=1)))
    assert not same(alone[0], alone[2])  # the control


def test_a_damaged_image_is_replaced_by_the_next_readable_one(folder):
    names = ImageSource(folder).names
    damage(folder / names[11])
    damage(folder / names[0])
    dataset = dataset_of(folder, skip_unreadable=True)
    batch = dataset[[(0, 11), (0, 5)]]
    assert batch.index.tolist() == [1, 5]  # the listing is a circle
    expected = dataset.views(read_image(folder / names[1]), seed=SEED, epoch=0, index=11)
    assert torch.equal(batch.images[0], expected.images)  # its own views: image 1 may be in the batch, too
    assert [name for name, _ in batch.unreadable] == [names[11], names[0]]
    assert all("damaged" in reason for _, reason in batch.unreadable)
    refused = dataset_of(folder)[[(0, 5), (0, 11)]]
    assert isinstance(refused, DataError) and names[11] in str(refused)
    for path in dataset.source.paths:
        path.unlink()
    assert "none of the 12 images can be read" in str(dataset[[(0, 0)]])


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_file_lost_during_the_run_is_a_plain_data_error(folder, num_workers):
    dataset = dataset_of(folder)
    for path in dataset.source.paths:
        path.unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        batches_of(dataset, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_workers_outlive_a_signal_that_meets_them_while_they_start(folder, monkeypatch):
    begin = data.start_worker

    def struck(worker):
        os.kill(os.getpid(), signal.SIGTERM)  # as the whole process group is struck, before the worker is ready
        begin(worker)

    monkeypatch.setattr(data, "start_worker", struck)
    monkeypatch.setattr(data, "BATCH_TIMEOUT_SECONDS", 10)
    assert len(batches_of(dataset_of(folder), num_workers=2)) == 4
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_ignore_the_signals_of_their_group(folder):
    order = GlobalBatches(12, 2, seed=SEED)
    sampler = RankBatches(order, rank=0, world_size=1, from_step=0, num_steps=40)
    others = {child.pid for child in multiprocessing.active_children()}  # of a test before, not collected yet
    stream = build_loader(dataset_of(folder), sampler, num_workers=2)
    for _ in range(2):
        next(stream)  # each worker has delivered a batch, so each has come as far as ignoring signals
    workers = [child for child in multiprocessing.active_children() if child.pid not in others]
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert sum(1 for _ in stream) == 38


_kept = []  # what an error report, or pytest, holds of frames that have ended


def _end_with_a_loader(dataset, ending):
    """One batch, then the process ends while the loader's iterator is still referred to."""
    loader = build_loader(dataset, itertools.repeat([(0, 0)], 50), num_workers=1)
    _kept.append(loader)
    next(loader)
    raise ending


class HangingReader(ViewDataset):
    """Reads one image, then nothing more."""

    reads = 0

    def read(self, index, unreadable):
        self.reads += 1
        if self.reads > 1:
            time.sleep(600)
        return super().read(index, unreadable)


@pytest.mark.parametrize("kind", [ViewDataset, HangingReader])
@pytest.mark.parametrize("ending", [RuntimeError("a bug"), SystemExit(2), KeyboardInterrupt()], ids=repr)
def test_a_process_that_ends_with_a_loader_open_does_not_wait_for_its_workers(folder, kind, ending, capfd):
    known = dataset_of(folder)
    dataset = kind(known.source, known.views, seed=SEED)
    process = multiprocessing.get_context("fork").Process(target=_end_with_a_loader, args=(dataset, ending))
    process.start()
    process.join(20)
    try:
        assert process.exitcode in (1, 2)
        assert "DataLoader worker" not in capfd.readouterr().err
    finally:
        for worker in _children_of(process.pid):
            os.kill(worker, signal.SIGKILL)
        process.kill()


@pytest.mark.slow
def test_closing_a_loader_waits_a_second_for_workers_that_hang(folder):
    """torch alone waits 10 s for each."""
    known = dataset_of(folder)
    order = RankBatches(GlobalBatches(12, 1, seed=SEED), rank=0, world_size=1, from_step=0, num_steps=4)
    loader = build_loader(HangingReader(known.source, known.views, seed=SEED), order, num_workers=2)
    next(loader)
    began = time.perf_counter()
    loader.close()
    assert time.perf_counter() - began < 5
    assert not multiprocessing.active_children()


def _children_of(number):
    try:
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []


def test_dataset_travels_to_workers_that_do_not_fork(folder):
    dataset = pickle.loads(pickle.dumps(dataset_of(folder)))
    assert same(dataset[[(0, 1)]], dataset_of(folder)[[(0, 1)]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_reach_the_device(folder):
    dataset = dataset_of(folder)
    order = RankBatches(GlobalBatches(12, 5, seed=SEED), rank=0, world_size=1, from_step=0, num_steps=2)
    for plain, pinned in zip(
        batches_of(dataset), build_loader(dataset, order, num_workers=2, pin_memory=True), strict=False
    ):
        assert pinned.images.is_pinned() and pinned.patches.is_pinned()
        assert same(pinned.to(torch.device("cuda")).to(torch.device("cpu")), plain)


@pytest.mark.realdata
def test_real_photographs_all_decode_to_pillows_pixels(shared_data):
    source = ImageSource(shared_data / "coco")
    assert len(source) >= 200 and scan_images(source.paths).bad == ()
    for path in source.paths[:5]:
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))


class FakeStream:
    """What `on_device` asks of a stream of a GPU, written down."""

    def __init__(self, name, said):
        self.name, self.said = name, said

    def wait_stream(self, other):
        self.said.append(f"{self.name} waits for {other.name}")


def test_on_a_gpu_a_batch_is_copied_by_its_own_stream_after_the_step_before_was_handed_out(monkeypatch):
    said = []
    computing, copying = FakeStream("computing", said), FakeStream("copying", said)

    @contextlib.contextmanager
    def entered(stream):
        said.append(f"{stream.name} begins")
        yield
        said.append(f"{stream.name} ends")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(ViewBatch, "to", lambda batch, device: said.append("copy") or batch)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: said.append(f"kept for {stream.name}"))
    batch = ViewBatch(torch.arange(2), torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8))
    for _ in on_device([batch, batch], torch.device("cuda", 0)):
        said.append("step handed out")
    one = ["copying begins", "copy", "copying ends", "computing waits for copying", *["kept for computing"] * 2]
    assert said == [*one, "step handed out"] * 2
    said.clear()
    assert list(on_device([batch], torch.device("cpu"))) == [batch] and not said  # on the CPU there is nothing to do


def test_only_the_images_that_take_the_jigsaw_get_patches_and_micro_batches_are_whole(folder):
    """The first two images of each of two micro-batches; their patches are those of a loader that cuts all of them."""
    keys = [(0, index) for index in (7, 3, 1, 11, 0, 5)]
    every = dataset_of(folder)[keys]
    dataset = ViewDataset(ImageSource(folder), every_views(), seed=SEED, jigsaw_images=2, micro_batches=2)
    some = dataset[keys]
    assert torch.equal(some.images, every.images) and torch.equal(some.index, every.index)
    rows = [0, 1, 3, 4]
    assert torch.equal(some.patches, every.patches[rows]) and torch.equal(some.permutation, every.permutation[rows])
    first, second = some.split(2)
    assert second.index.tolist() == [11, 0, 5] and torch.equal(second.images, every.images[3:])
    assert torch.equal(first.patches, every.patches[:2]) and torch.equal(second.patches, every.patches[3:5])
    with pytest.raises(ValueError, match="cannot be split into 4"):
        some.split(4)


def every_views():
    return ViewMaker(RECIPES["infomin"], image_size=32, patch_size=16)
