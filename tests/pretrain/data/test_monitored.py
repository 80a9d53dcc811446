"""The images that the monitor looks at: of each class alike, of the run's evenly; what cannot serve as a probe is refused."""

from __future__ import annotations

import pytest

from pretrain.base.errors import DataError
from pretrain.config import MonitorConfig
from pretrain.data.monitored import images_to_monitor
from tests.cases import each
from tests.pretrain.conftest import write_images


def nothing(index):
    raise AssertionError(index)


def labelled(root, **counts):
    for name, count in counts.items():
        write_images(root / name, count)
    return root


def watched(root, **changed):
    return images_to_monitor(MonitorConfig(every_epochs=1, labelled=root, **changed), own=nothing, num_own=0)


def test_each_class_gives_the_same_number_at_most(tmp_path):
    images = watched(labelled(tmp_path, one=12, two=7, three=2), max_images=21)
    assert images.labels.bincount().tolist() == [7, 2, 7]  # one, three, two
    assert images.count == 16 and images.read(0).shape == (40, 48, 3)


def test_without_labels_the_runs_own_images_are_taken_evenly():
    images = images_to_monitor(MonitorConfig(max_images=10), own=lambda index: index, num_own=100)
    assert [images.read(position) for position in range(images.count)] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert images.labels is None
    assert images_to_monitor(MonitorConfig(), own=lambda index: index, num_own=3).count == 3


@each(
    ("counts", "message"),
    [
        ({"one": 8}, "two classes or more, found only 'one'"),
        ({"one": 4, "two": 3}, "expected at least one class of 5 images.*largest of 2 classes has 4"),
        ({}, "^monitor.labelled: .*one folder a class"),
    ],
)
def test_a_folder_that_is_no_probe_is_refused_with_what_was_expected(tmp_path, counts, message):
    with pytest.raises(DataError, match=message):
        watched(labelled(tmp_path, **counts))


def test_files_that_cannot_be_read_are_named(tmp_path):
    root = labelled(tmp_path, one=6, two=6)
    (root / "two" / "003.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 12 images cannot be read:\n.*003.png"):
        watched(root)


def test_a_labelled_folder_that_would_never_be_looked_at_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="labelled is given, but every_epochs=0 never looks at it; pass every_epochs=1"
    ):
        MonitorConfig(labelled=tmp_path)
