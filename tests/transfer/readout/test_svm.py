"""The SVM readout: labels of images, average precision by hand, the choice of C, and a run on VOC folders."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import read_record
from tests.cases import each
from tests.tools.in_process import run_tool_here
from transfer.data.records import DetectionData
from transfer.readout.svm import average_precision, fit_classes, fitting_classes, image_labels, unit_length
from transfer.readout.svm_config import SvmConfig, load_svm_config

CONFIG = SvmConfig(costs=(0.01, 1.0))


def data_of(*images, class_names=("cat", "dog")):
    """images: lists of (class name, difficult)."""
    return DetectionData(
        tuple(
            {
                "annotations": [
                    {"category_id": class_names.index(name), "difficult": difficult} for name, difficult in things
                ]
            }
            for things in images
        ),
        class_names,
    )


def test_an_image_shows_a_class_by_an_object_that_is_not_difficult():
    images = ([("cat", 0)], [("cat", 1)], [("cat", 1), ("cat", 0)], [], [("cat", 0), ("dog", 1)])
    assert image_labels(data_of(*images), ("cat", "dog")).T.tolist() == [[1, -1, 1, 0, 1], [0, 0, 0, 0, -1]]
    assert image_labels(data_of(*images), ("dog", "cat")).T.tolist() == [[0, 0, 0, 0, -1], [1, -1, 1, 0, 1]]
    with pytest.raises(DataError, match=r"classes that the training images do not: dog"):
        image_labels(data_of(*images), ("cat",))


def test_average_precision_by_hand_area_and_11_points_apart():
    # In order of score: right, wrong, right. Precision 1 up to recall 1/2, then 2/3.
    scores, truth = np.array([0.9, 0.5, 0.7]), np.array([True, True, False])
    area, points = average_precision(scores, truth)
    assert area == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))
    assert points == pytest.approx(100 * (6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(np.array([1.0, 2.0, 3.0]), np.array([False, True, True])) == (100, pytest.approx(100))


def problem(num_images=60, *, noise):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (num_images, 2))
    features = np.concatenate([labels, 1 - labels], axis=1) + noise * generator.normal(size=(num_images, 4))
    return unit_length(features), labels


def fit(config=CONFIG, *, noise=0.1, spoil=None):
    train, labels = problem(noise=noise)
    test, test_labels = train.copy(), labels.copy()
    if spoil is not None:
        test, test_labels = spoil(test, test_labels)
    return fit_classes(train, labels, test, test_labels, ("a", "b"), config, announce=lambda text: None)


def test_separable_classes_have_an_ap_of_100_and_figures_of_the_folds():
    for result in fit():
        assert (result.ap_area, result.ap_11_points) == pytest.approx((100, 100)) and result.converged
        assert len(result.folds_ap) == 2 and result.cost == CONFIG.costs[int(np.argmax(result.folds_ap))]
        assert result.num_left_out == 0 < result.num_train


def test_difficult_test_images_are_left_out_and_would_have_counted():
    def wrong_first(test, labels, *, label):
        test, labels = np.concatenate([test, 3 * test[labels[:, 0] == 1][:1]]), np.concatenate([labels, [[label, 0]]])
        return test, labels

    difficult = fit(spoil=lambda *pair: wrong_first(*pair, label=-1))[0]
    absent = fit(spoil=lambda *pair: wrong_first(*pair, label=0))[0]
    assert difficult.ap_area == pytest.approx(100) and difficult.num_left_out == 1
    assert absent.ap_area < 99 and absent.num_left_out == 0


def test_the_test_images_do_not_take_part_in_the_choice_of_c():
    config = SvmConfig(costs=(1e-4, 0.1, 100.0))
    honest = fit(config, noise=1.0)
    blind = fit(config, noise=1.0, spoil=lambda test, labels: (test[::-1].copy(), labels))
    assert [(r.cost, r.folds_ap) for r in honest] == [(r.cost, r.folds_ap) for r in blind]
    assert honest[0].ap_area != blind[0].ap_area


def test_a_class_that_cannot_be_cross_validated_is_left_out_by_name_and_none_left_is_an_error():
    labels = np.array([[1, 1, 0]] * 6 + [[0, 1, 0]] * 6)
    columns, left_out = fitting_classes(labels, ("some", "every", "no"), 3)
    assert columns == [0] and "'every'" in left_out[0] and "'no'" in left_out[1]
    with pytest.raises(DataError, match="no class can be read out"):
        fitting_classes(labels[:, 1:], ("every", "no"), 3)


@each(
    ("override", "word"),
    [("costs=[]", "costs"), ("costs=[0]", "costs"), ("folds=1", "folds"), ("cost=1", "did you mean `costs`")],
)
def test_values_that_cannot_work_are_refused_by_name(override, word):
    with pytest.raises(ConfigError, match=word):
        load_svm_config(None, [override])


def test_the_shipped_file_writes_the_defaults_out():
    assert load_svm_config("voc07") == SvmConfig()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--test-data": "voc:nowhere:test"}, "no folder at nowhere"),
        ({"--train-data": "train"}, "voc:ROOT:SPLIT"),
        ({"--weights": "absent.pth"}, "absent.pth"),
        ({"--config-file": "voc70"}, "did you mean voc07"),
        ({"--train-data": "voc:SCENES:test"}, "images are in the training and in the test data"),
    ],
)
def test_bad_input_ends_with_2_a_sentence_and_no_output(voc_scenes, tmp_path, changed, words):
    options = {"--weights": "random:resnet18", "--train-data": "voc:SCENES:train", "--test-data": "voc:SCENES:test"}
    options |= {"--output-dir": "out", **changed}
    given = [word.replace("SCENES", str(voc_scenes)) for pair in options.items() for word in pair]
    done = run_tool_here("svm_readout.py", *given, "folds=2", "image_size=32", "num_workers=0", cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def voc_scenes(demo_scenes):
    return demo_scenes / "voc"


@pytest.mark.slow
@pytest.mark.realdata
def test_a_voc_folder_is_read_out_and_a_second_run_encodes_nothing(shared_data, tmp_path):
    root = f"voc:{shared_data / 'bccd'}"
    words = ("--weights", "random:resnet18_half", "--train-data", f"{root}:trainval", "--test-data", f"{root}:test")
    words = (*words, "--features", "features", "image_size=32", "num_workers=0", "costs=[0.1,1]")
    done = run_tool_here("svm_readout.py", *words, "--output-dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "out" / "record.json")
    assert set(record.figures) == {"svm/mAP_area", "svm/mAP_11_points"} and "top1" not in record.figures
    by_name = {entry["name"]: entry for entry in record.details["classes"]}
    assert set(by_name) == {"Platelets", "RBC"} and record.details["classes_left_out"] == ["WBC"]
    assert record.figures["svm/mAP_area"] == pytest.approx(sum(e["ap_area"] for e in by_name.values()) / 2)
    assert by_name["Platelets"]["ap_area"] > 100 * by_name["Platelets"]["num_test"] / 72  # chance
    again = run_tool_here("svm_readout.py", *words, cwd=tmp_path)
    assert again.returncode == 0 and "encoded once" in done.stdout and "encoded once" not in again.stdout
