"""A fast readout from request to record: names of figures, what is encoded, what is not repeated, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import read_record
from pretrain.run.precision import Precision
from tests.tools.in_process import run_tool_here
from tests.transfer.readout.test_run import SmallEncoder
from transfer.compare.experiments import _metrics
from transfer.compare.results import read_run
from transfer.readout import fast_run
from transfer.readout.fast_config import FastConfig
from transfer.readout.fast_run import FastRequest, run_fast_readout
from transfer.readout.features import FrozenEncoder

TINY = FastConfig(
    epochs=2,
    least_steps=0,
    batch_size=8,
    image_size=32,
    num_views=2,
    learning_rates=(0.01, 0.1),
    weight_decays=(0.0, 0.01),
    held_out=0.3,
    neighbours=(3,),
    fractions=(0.5,),
    fraction_seeds=(0, 1),
    device="cpu",
    precision="fp32",
    num_workers=0,
)


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    """Every encoder that a readout loads is a SmallEncoder of the configured seed; they are kept here."""
    loaded = []

    def load(weights, config, *, branch):
        torch.manual_seed(config.seed)
        dtype = torch.bfloat16 if config.precision == "bf16" else None
        loaded.append(
            FrozenEncoder(SmallEncoder().eval(), InputContract(), Precision(torch.device("cpu"), dtype), None)
        )
        return loaded[-1]

    monkeypatch.setattr(fast_run, "load_frozen_encoder", load)
    return loaded


@pytest.fixture
def run(class_folders, tmp_path):
    def run_it(output=None, **over):
        said = []
        config = replace(TINY, **over)
        request = FastRequest(
            "random:resnet18", class_folders, config, "random", None, "typed", features=tmp_path / "features"
        )
        return run_fast_readout(request, output and tmp_path / output, announce=said.append), said

    return run_it


def test_figures_are_named_by_protocol_and_none_is_a_published_readouts_top1(run, tmp_path):
    record, said = run("out")
    assert read_record(tmp_path / "out" / "record.json") == record and record.status == "done"
    assert set(record.figures) == {
        "linear_centre/top1", "linear_centre/top5", "linear_centre/held_out_top1",
        "knn_3/top1", "knn_3_equal_votes/top1", "linear_centre_50%/top1",
    }  # fmt: skip
    augmented, _ = run(view="augmented", neighbours=())
    assert "linear_augmented_50%/top1" in augmented.figures and augmented.hash != record.hash
    assert not any("centre" in name or "knn" in name for name in augmented.figures)
    assert record.details["protocol"]["is_paper"] is False and any("no published protocol" in line for line in said)


def test_what_was_tried_and_each_draw_of_few_labels_are_recorded(run):
    record, said = run()
    sweep = record.details["sweep"]
    assert sweep["heads_tried"] == len(sweep["heads"]) == 4 and sweep["num_fit"] + 6 == sweep["trained_again_on"] == 21
    assert sweep["top1"] == record.figures["linear_centre/top1"]
    few = record.details["few_labels"]["0.5"]
    assert [draw["seed"] for draw in few["draws"]] == [0, 1] and few["draws"][0]["num_images"] == 12
    mean = sum(draw["top1"] for draw in few["draws"]) / 2
    assert few["mean"] == record.figures["linear_centre_50%/top1"] == pytest.approx(mean)
    assert few["standard_deviation"] is not None
    assert any("add 1 to learning_rates" in line or "add 0.001 to" in line for line in said) == (
        len(TINY.learning_rates) > 2
    )


def test_the_trunk_runs_once_an_image_and_view_and_not_again_for_another_sweep(run, monkeypatch):
    seen = []
    honest = FrozenEncoder.features
    monkeypatch.setattr(
        FrozenEncoder, "features", lambda self, images: (seen.append(len(images)), honest(self, images))[1]
    )
    counts = []
    for over in ({}, {"learning_rates": (0.03,)}, {"view": "augmented"}, {"view": "augmented", "num_views": 3}):
        run(**over)
        counts.append(sum(seen))
        seen.clear()
    assert counts == [21 + 12, 0, 2 * 21, 21]


def test_a_bf16_trunk_is_announced_with_its_difference_to_float32(run):
    record, said = run(precision="bf16")
    features = record.details["features"]
    assert features["trunk"] == "bf16" and 0 < features["relative_difference_to_fp32"] < 0.05
    assert any("the encoder runs in bf16" in line for line in said)
    assert run()[0].details["features"] == {"trunk": "fp32", "stored": "float16"}


def test_a_finished_fast_readout_is_not_run_again_and_another_one_does_not_replace_it(run):
    first, _ = run("out")
    again, said = run("out", num_workers=1)
    assert again == first and any("finished already" in line for line in said)
    with pytest.raises(ConfigError, match=r"fast\.held_out: 0\.3 there, 0\.4 now"):
        run("out", held_out=0.4)


def test_an_encoder_that_moves_ends_the_readout_without_a_figure(run, tmp_path, monkeypatch):
    honest = FrozenEncoder.features
    monkeypatch.setattr(FrozenEncoder, "features", lambda self, images: (self.module.train(), honest(self, images))[1])
    with pytest.raises(AssertionError, match="frozen encoder moved"):
        run("out")
    record = read_record(tmp_path / "out" / "record.json")
    assert (record.status, record.figures) == ("failed", {})


def test_compare_lists_the_figures_that_a_fast_readout_has(run, tmp_path):
    run("out")
    found = read_run(tmp_path / "out")
    assert _metrics([found])[:2] == ("linear_centre/top1", "linear_centre/top5") and "top1" not in found.metrics


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--data", "nothing"), "no folder"),
        (("--config-file", "center"), "did you mean centre"),
        (("learning_rate=1",), "did you mean `learning_rates`"),
        (("fractions=[0.1]", "held_out=many"), "held_out"),
    ],
)
def test_bad_input_ends_with_2_a_sentence_and_no_output(class_folders, tmp_path, words, text):
    given = ("--weights", "random:resnet18", "--data", class_folders, "--output-dir", "out", "num_workers=0", *words)
    done = run_tool_here("fast_readout.py", *given, cwd=tmp_path)
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_share_of_labels_too_small_to_choose_by_is_left_out_with_the_reason(run):
    record, said = run(fractions=(0.5, 0.1))
    assert record.figures["linear_centre_10%/top1"] is None and record.figures["linear_centre_50%/top1"] is not None
    reason = record.details["few_labels"]["0.1"]["left_out"]
    assert "of the 7 training images of class 'blue' that is 1" in reason and "a fraction of 0.29" in reason
    assert reason in said


def test_a_class_with_a_single_image_is_refused_before_anything_is_encoded(class_folders, run, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "data")
    for path in sorted((root / "train" / "red").iterdir())[1:]:
        path.unlink()
    request = FastRequest("random:resnet18", root, TINY, "random", None, "typed", features=tmp_path / "features")
    with pytest.raises(DataError, match="class 'red' has 1 training image; expected two or more"):
        run_fast_readout(request, tmp_path / "out", announce=print)
    assert not (tmp_path / "out").exists() and not (tmp_path / "features").exists()


def test_the_command_prints_its_figures_and_keeps_features_in_the_users_cache(class_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("INFOMIN_CACHE", str(tmp_path / "cache"))
    words = ("least_steps=0", "epochs=1", "neighbours=[3]", "fractions=[0.1]", "num_workers=0", "precision=fp32")
    done = run_tool_here(
        "fast_readout.py", "--weights", "random:resnet18", "--data", class_folders, *words, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "random: linear_centre/top1 " in done.stdout and "random: knn_3/top1 " in done.stdout
    assert "linear_centre_10%/top1 not measured" in done.stdout
    assert "images of 32 px (the images' own size, 32 px)" in done.stdout
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 2
