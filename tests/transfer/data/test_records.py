"""Records and the box rule: what is clipped, dropped, refused, and how classes are reordered."""

from __future__ import annotations

import pytest

from pretrain.base.errors import DataError
from tests.cases import each
from transfer.data.problems import Problem, read_strictly
from transfer.data.records import BoxRule, DetectionData, is_number, with_class_order


def data_of(*classes: int, names=("ant", "bee"), **fields) -> DetectionData:
    things = [{"bbox": [0, 0, 4, 4], "category_id": category} for category in classes]
    return DetectionData(({"file_name": "a.jpg", "annotations": things},), tuple(names), **fields)


def test_flags_text_and_what_no_float_holds_are_not_numbers() -> None:
    assert all(map(is_number, (0, -3, 2.5, 10**300)))
    assert not any(map(is_number, (True, False, None, "1", [1], float("nan"), float("inf"), 10**400)))


def fit(
    box, width: int = 10, height: int = 20, rule: BoxRule | None = None
) -> tuple[list[float] | None, list[Problem]]:
    fitting, said = (rule or BoxRule()).apply(box, width, height, "box"), []
    while True:
        try:
            said.append(next(fitting))
        except StopIteration as end:
            return end.value, said


def test_box_inside_its_image_is_untouched() -> None:
    assert fit((0, 0, 10, 20)) == ([0, 0, 10, 20], [])
    assert fit((0.25, 3.5, 9.75, 4.125)) == ([0.25, 3.5, 9.75, 4.125], [])


@each(
    ("box", "inside"),
    [
        ((-10, 6, 30, 24), [0, 6, 10, 20]),
        ((1, -500, 3, 3), [1, 0, 3, 3]),
        ((1, 1, 10.01, 3), [1, 1, 10, 3]),
        ((-1e9, -1e9, 1e9, 1e9), [0, 0, 10, 20]),
    ],
)
def test_box_over_the_border_is_clipped_at_any_distance_and_said(box, inside) -> None:
    fitted, (said,) = fit(box)
    assert fitted == inside
    assert (said.kind, said.remedy, said.repaired) == ("boxes over the border of their image", "clipped", True)


@each(
    ("box", "kind"),
    [
        ((3, 3, 3, 8), "boxes without width or height"),
        ((3, 3, 8, 3), "boxes without width or height"),
        ((-2, 0, -1, 5), "boxes wholly outside their image"),
        ((10, 0, 11, 5), "boxes wholly outside their image"),
        ((0, 21, 5, 25), "boxes wholly outside their image"),
    ],
)
def test_box_without_area_in_its_image_is_dropped_and_said(box, kind) -> None:
    fitted, (said,) = fit(box)
    assert fitted is None and (said.kind, said.remedy, said.repaired) == (kind, "dropped", True)


def test_exchanged_corners_are_in_doubt() -> None:
    fitted, (said,) = fit((5, 5, 4, 6))
    assert fitted is None and said.kind == "boxes with exchanged corners" and not said.repaired


def test_a_file_most_of_whose_boxes_have_no_area_is_in_doubt() -> None:
    rule = BoxRule()
    for box in ((0, 0, 1, 1), (3, 3, 3, 3)):
        fit(box, rule=rule)
    assert list(rule.close()) == []
    fit((50, 50, 60, 60), rule=rule)
    (said,) = rule.close()
    assert said.found == "2 of 3" and not said.repaired


def test_boxes_that_all_lie_in_the_first_pixel_are_fractions_of_their_image() -> None:
    rule = BoxRule()
    for box in ((0.1, 0.2, 0.5, 0.9), (0, 0, 1, 1)):
        fit(box, rule=rule)
    (said,) = rule.close()
    assert said.kind == "boxes in fractions of their image, not in pixels" and not said.repaired
    fit((0, 0, 1, 1.5), rule=rule)  # the control
    assert list(rule.close()) == [] == list(BoxRule().close())


def test_the_count_of_clipped_boxes_reaches_the_note() -> None:
    def two_boxes():
        rule = BoxRule()
        yield from rule.apply((-1, 0, 5, 5), 10, 10, "object 1")
        yield from rule.apply((1, 0, 5, 5), 10, 10, "object 2")
        yield from rule.apply((1, 0, 5, 50), 10, 10, "object 3")

    _, notes = read_strictly(two_boxes(), "file")
    assert notes == (
        "file: boxes over the border of their image: 2 (clipped), first object 1: (-1, 0, 5, 5) in 10 x 10 pixels",
    )


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
