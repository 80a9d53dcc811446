"""tools/learn_views.py as a user runs it, up to an encoder that was pre-trained on its recipe and converted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pretrain.base.record import read_record
from tests.pretrain.good_views.view_learning.tiny_game import write_classes
from tests.tools.in_process import run_tool_here as call

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "image_size=16",
    "generator={hidden_width: 4, num_blocks: 2}",
    "estimator.encoder={kind: small, width: 4, feature_dim: 8}",
    "classifier={kind: small, width: 4, feature_dim: 8}",
    "optimizer={epochs: 2, batch_size: 8, labelled_batch_size: 6}",
    "runtime={device: cpu, log_every_steps: 1}",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("images"), size=40)


@pytest.mark.slow
def test_learned_views_pre_train_an_encoder_that_converts_like_any_other(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "learned"
    played = call(
        "learn_views.py", "--data", images, "--output-dir", out, "--labels-per-class", 4, "--seeds", "0,1", *TINY
    )
    assert played.returncode == 0, played.stderr
    assert "seed 1: 6 steps; information" in played.stdout and "recipe.yaml of seed 0" in played.stdout
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("recipe.yaml", "generator.safetensors"):  # these two are moved together
        (out / name).rename(elsewhere / name)
    pre = tmp_path / "pre"
    smoke = ROOT / "configs" / "pretrain" / "smoke.yaml"
    options = [
        f"data.root={images}",
        f"views.recipe={elsewhere / 'recipe.yaml'}",
        "method.jigsaw=false",
        "method.queue_size=16",
    ]
    more = ["optimizer.batch_size=8", "optimizer.epochs=1", "data.num_workers=0", "runtime.precision=fp32"]
    trained = call("pretrain.py", "--config-file", smoke, "--output-dir", pre, *options, *more)
    assert trained.returncode == 0, trained.stderr
    shutil.rmtree(elsewhere)  # the run has its own copy of both
    again = call("pretrain.py", "--config-file", pre / "config.yaml", "--output-dir", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    figures = [read_record(folder / "record.json").figures["loss"] for folder in (pre, tmp_path / "again")]
    assert figures[0] == figures[1]
    (checkpoint,) = (pre / "checkpoints").glob("*.pt")
    converted = call("convert_weights.py", checkpoint, tmp_path / "out.pth")
    assert converted.returncode == 0 and "100 of 100 tensors placed once" in converted.stdout, converted.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "unsupervised", "generator.space=ydrdb"], "did you mean 'ydbdr'"),
        (["--seeds", "0,zero"], "--seeds: expected different whole numbers"),
        (["--labels-per-class", "99", *TINY], "expected at least labels_per_class=99"),
        (
            ["estimator.bound=memory_bank", *TINY[:1], *TINY[3:]],
            "estimator.num_negatives expected at most 23",
        ),
    ],
)
def test_what_cannot_start_ends_with_code_2_and_leaves_nothing(
    images: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = call("learn_views.py", "--data", images, "--output-dir", tmp_path / "out", *arguments)
    assert result.returncode == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()
