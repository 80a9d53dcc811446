"""Pictures: drawn from what is there, none from nothing, the same bytes each time."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from pretrain.base.errors import DataError
from transfer.compare.experiments import group_runs
from transfer.compare.plots import (
    ap_over_iterations,
    colour_of,
    detection_curves,
    encode_image,
    line_of,
    plain_label,
    pretraining_curves,
    readout_curves,
    running_mean,
    seed_dots,
    sheet,
)
from transfer.compare.results import read_run

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`


def svg_of(picture):
    kind, _, data = picture.data_uri.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def with_record(run, **over):
    return replace(run, record=replace(run.record, **over))


def named(run, label):
    """The same run from an initialisation of that name."""
    return with_record(run, initialisation=replace(run.record.initialisation, name=label))


def seeded(run, seed):
    return with_record(run, seeds={"run": seed})


@pytest.fixture
def drawn(monkeypatch):
    """Every line that is plotted: (title of its axis, label, x, y)."""
    lines = []
    honest = Axes.plot

    def plot(self, *arguments, **options):
        lines.append((self.get_title("left"), options.get("label"), list(arguments[0]), list(arguments[1])))
        return honest(self, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", plot)
    return lines


@pytest.fixture
def detection(make_detection, tmp_path):
    return read_run(make_detection(tmp_path / "detect" / "run", init="random", seed=0, ap50=30.0))


@pytest.fixture
def linear(make_linear, tmp_path):
    return read_run(make_linear(tmp_path / "readout", init="random", seed=0, top1=30.0))


@pytest.fixture
def pretraining(make_pretraining, tmp_path):
    return read_run(make_pretraining(tmp_path / "pretrain"))


@pytest.mark.parametrize("span", [1, 7, 99])
def test_running_mean_equals_a_slow_reference(span):
    values = np.random.default_rng(0).normal(size=20).tolist()
    half = span // 2
    expected = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(20)]
    assert running_mean(values, span) == pytest.approx(expected)


def test_pretraining_shows_loss_accuracy_and_rate_over_steps(pretraining, drawn):
    svg_of(pretraining_curves(pretraining))
    by_title = {title: (x, y) for title, _, x, y in drawn}
    assert set(by_title) == {"Loss", "Contrastive accuracy", "Learning rate"}
    assert by_title["Learning rate"] == (
        [row["step"] for row in pretraining.curve], [row["learning_rate"] for row in pretraining.curve]
    )  # fmt: skip
    raw = next(y for title, _, _, y in drawn if title == "Loss")
    assert raw == [row["loss"] for row in pretraining.curve]


@pytest.mark.parametrize("queue", ["many", -1])
def test_pretraining_without_a_known_queue_is_drawn_without_its_line(pretraining, queue):
    assert pretraining_curves(with_record(pretraining, config={"method": {"queue_size": queue}})) is not None


@pytest.mark.parametrize(
    ("method", "chance"),
    [
        ({"queue_size": 4096}, math.log(4097)),
        ({"memory": "queue", "queue_size": 512, "bank_negatives": 9}, math.log(513)),
        ({"memory": "bank", "queue_size": 512, "bank_negatives": 9}, math.log(10)),
        ({"memory": "batch", "queue_size": 512}, math.log(2 * 64 - 1)),
    ],
)
def test_the_loss_that_knows_nothing_is_that_of_the_run_s_memory(pretraining, method, chance, monkeypatch):
    config = {"method": method, "optimizer": {"batch_size": 128, "accumulate": 2}}
    labels = []
    monkeypatch.setattr(Axes, "axhline", lambda self, y, **rest: labels.append((y, rest["label"])))
    monkeypatch.setattr(Axes, "legend", lambda self, **rest: None)
    pretraining_curves(with_record(pretraining, config=config))
    assert labels == [(chance, f"ln(K + 1) = {chance:.2f}")]


def test_nothing_logged_is_no_picture(pretraining, detection, linear):
    assert pretraining_curves(replace(pretraining, curve=())) is None
    assert detection_curves(group_runs([with_record(replace(detection, curve=()), history=())])[0]) is None
    assert readout_curves(group_runs([replace(linear, curve=())])[0]) is None
    assert seed_dots(group_runs([with_record(named(detection, i), figures={}) for i in ("a", "b")])[0]) is None
    assert seed_dots(group_runs([detection])[0]) is None  # one row has nothing beside it


def test_figures_that_are_no_numbers_are_gaps(pretraining):
    log = ({"step": 1, "loss": float("nan")}, {"step": 2, "loss": "x"}, {"step": 3}, {"step": 4, "loss": 2.0})
    assert pretraining_curves(replace(pretraining, curve=log)) is not None


def test_detection_shows_loss_ap_and_rate_of_every_seed(detection, drawn):
    (group,) = group_runs([detection, seeded(detection, 1), named(detection, "infomin")])
    assert detection_curves(group) is not None
    assert sum(title == "Training loss" for title, *_ in drawn) == 3
    assert [y for title, _, _, y in drawn if title == "box AP50"] == [[10.0, 20.0, 30.0]] * 3
    assert {label for title, label, *_ in drawn if title == "Learning rate"} == {"random", "infomin", None}


def test_readout_shows_accuracy_loss_and_rate(linear, drawn):
    (group,) = group_runs([linear])
    assert readout_curves(group) is not None
    assert {title: y[-1] for title, _, _, y in drawn}["Learning rate"] == pytest.approx(0.24)
    assert {title for title, *_ in drawn} == {"Readout top-1", "Readout training loss", "Learning rate"}


def test_ap_over_iterations_falls_back_on_detectron2s_own_log(detection):
    assert ap_over_iterations(detection, "bbox/AP50") == [(200, 10.0), (400, 20.0), (600, 30.0)]
    curve = ({"iteration": 99, "bbox/AP50": 5.0}, {"iteration": 199, "bbox/AP50": float("nan")})
    assert ap_over_iterations(with_record(replace(detection, curve=curve), history=()), "bbox/AP50") == [(99, 5.0)]


def test_any_name_can_be_drawn(detection, linear):
    names = ["$x^2$", "$\\broken{$", "_hidden", "a & <b>", "x" * 80]
    (group,) = group_runs([named(detection, name) for name in names])
    assert detection_curves(group) is not None
    assert seed_dots(group) is not None
    assert readout_curves(group_runs([named(linear, name) for name in names])[0]) is not None
    labels = [plain_label(name) for name in names]
    assert labels[:4] == [r"\$x^2\$", r"\$\broken{\$", " _hidden", "a & <b>"] and len(labels[4]) == 27


def test_equal_runs_give_equal_bytes_without_date_or_outside_reference(detection):
    (group,) = group_runs([detection, named(detection, "infomin")])
    first, again = (detection_curves(group) for _ in range(2))
    assert first == again
    svg = svg_of(first)
    assert "<dc:date>" not in svg
    links = re.findall(r'(?:href|src)="([^"]+)"', svg)
    assert all(link.startswith("#") for link in links)


def test_lines_that_lie_on_each_other_all_show():
    names = ["random", "supervised", "infomin", "mine"]
    styles = [line_of(name, names) for name in names]
    assert len({str(style["linestyle"]) for style in styles}) == 4 and styles[-1]["linestyle"] == "-"
    orders = [style["zorder"] for style in styles]
    assert orders == sorted(orders, reverse=True)  # broken lines lie on top
    assert len({colour_of(name, names) for name in names}) == 4


def test_a_very_large_sheet_is_made_smaller_and_a_broken_one_is_an_error(tmp_path):
    Image.new("RGB", (3200, 100), "red").save(tmp_path / "views.png")
    picture = sheet(tmp_path / "views.png")
    assert picture.width == 1600
    (tmp_path / "views.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError):
        sheet(tmp_path / "views.png")


def test_a_sheet_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    uri = encode_image(Image.fromarray(pixels), "PNG")
    back = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert np.array_equal(np.asarray(back), pixels)
