"""Records and the box rule: what is clipped, dropped, refused, and how classes are reordered."""

from __future__ import annotations

import pytest

from pretrain.base.errors import DataError
from transfer.data.records import MAX_DROPPED, OVERHANG, BoxRule, DetectionData, is_number, with_class_order


def data_of(*classes: int, names=("ant", "bee"), **fields) -> DetectionData:
    things = [{"bbox": [0, 0, 4, 4], "category_id": category} for category in classes]
    return DetectionData(({"file_name": "a.jpg", "annotations": things},), tuple(names), **fields)


def test_flags_text_and_what_no_float_holds_are_not_numbers() -> None:
    assert all(map(is_number, (0, -3, 2.5, 10**300)))
    assert not any(map(is_number, (True, False, None, "1", [1], float("nan"), float("inf"), 10**400)))


def test_box_inside_its_image_is_untouched() -> None:
    rule = BoxRule()
    assert rule.apply((0, 0, 10, 20), 10, 20, "box") == [0, 0, 10, 20]
    assert rule.notes("file") == ()


def test_small_overhang_is_clipped_and_counted() -> None:
    rule = BoxRule()
    assert rule.apply((-OVERHANG, -1, 10 + OVERHANG, 21), 10, 20, "box") == [0, 0, 10, 20]
    assert rule.apply((1, 1, 3, 3), 10, 20, "box") == [1, 1, 3, 3]
    assert "1 of 2 boxes" in rule.notes("file")[0]


@pytest.mark.parametrize("box", [(-2.1, 0, 5, 5), (0, -2.1, 5, 5), (0, 0, 12.1, 5), (0, 0, 5, 22.1)])
def test_box_that_leaves_its_image_is_refused_with_both_sizes(box) -> None:
    with pytest.raises(DataError, match=r"file: object 3: box .* leaves its image of 10 x 20"):
        BoxRule().apply(box, 10, 20, "file: object 3")


def test_exchanged_corners_are_refused() -> None:
    with pytest.raises(DataError, match="corners exchanged"):
        BoxRule().apply((5, 5, 4, 6), 10, 10, "box")


@pytest.mark.parametrize("box", [(3, 3, 3, 8), (3, 3, 8, 3), (-2, 0, -1, 5), (10, 0, 11, 5)])
def test_box_without_area_inside_the_image_is_dropped_not_trained_on(box) -> None:
    rule = BoxRule()
    assert rule.apply(box, 10, 10, "box") is None
    assert len(rule.dropped) == 1


def test_a_rare_dropped_box_is_noted_and_a_common_one_refused() -> None:
    rule = BoxRule()
    for _ in range(round(1 / MAX_DROPPED) - 1):
        rule.apply((0, 0, 1, 1), 10, 10, "box")
    rule.apply((3, 3, 3, 3), 10, 10, "file: object 7")
    assert "dropped 1 of 1000 objects, first file: object 7" in rule.notes("file")[0]
    rule.apply((3, 3, 3, 3), 10, 10, "file: object 8")
    with pytest.raises(DataError, match=r"2 of 1001 objects cannot be used .* first file: object 7"):
        rule.notes("file")


def test_class_order_is_renumbered_by_name() -> None:
    data = with_class_order(data_of(0, 1, 1), ("cat", "bee", "ant"), "test")
    assert [thing["category_id"] for thing in data.records[0]["annotations"]] == [2, 1, 1]
    assert data.class_names == ("cat", "bee", "ant")


def test_class_order_leaves_the_original_records_alone() -> None:
    before = data_of(0, 1)
    with_class_order(before, ("bee", "ant"), "test")
    assert [thing["category_id"] for thing in before.records[0]["annotations"]] == [0, 1]


def test_class_unknown_to_training_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"split: the classes bee are not among those trained on, which are ant, cat"):
        with_class_order(data_of(0), ("ant", "cat"), "split")


def test_crowds_count_neither_as_objects_nor_as_labels() -> None:
    record = {"annotations": [{"iscrowd": 1}]}
    data = DetectionData((record, {"annotations": [{"iscrowd": 0}, {}]}, {"annotations": []}), ("ant",))
    assert (data.num_objects, data.num_labelled_images) == (2, 1)


def test_masks_can_be_evaluated_only_when_every_object_has_one() -> None:
    def with_things(*things) -> DetectionData:
        return DetectionData(({"annotations": list(things)},), ("ant",))

    outlined, plain = {"segmentation": [[0, 0, 1, 0, 1, 1]]}, {"iscrowd": 1}
    assert with_things(outlined, outlined).can_evaluate_masks
    assert not with_things(outlined, plain).can_evaluate_masks
    assert not with_things().can_evaluate_masks
