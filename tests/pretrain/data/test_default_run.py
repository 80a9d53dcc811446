"""Which run starts where no configuration file is named, and that a run in progress keeps its own."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

from pretrain.base.errors import ConfigError, DataError
from pretrain.config import load_run_config, to_plain
from pretrain.data import default_run as module
from pretrain.data.default_run import FILES, LARGEST_FILE, MANY_IMAGES, PAPER, default_run, usual_side
from pretrain.data.source import ImageSource, list_names
from tests.cases import each
from tests.tools.in_process import run_tool_here


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 256, (80, 70, 3), dtype=np.uint8)).save(root / f"{index}.png")
    return root


@pytest.mark.parametrize(
    ("count", "name"),
    [(130, "small_1k"), (2_999, "small_1k"), (3_000, "small_10k"), (8_709, "small_10k"), (30_000, "small_100k")],
)
def test_the_file_follows_the_number_of_images_and_is_named(images, monkeypatch, count, name):
    names = [path.name for path in images.iterdir()]
    monkeypatch.setattr(module, "open_source", lambda root: ImageSource(images, (names * (count // 10 + 1))[:count]))
    config, why, _ = default_run([f"data.root={images}"])
    assert config == load_run_config(name, [f"data.root={images}"])
    assert f"{count:,} images of about 64 px, so {name}.yaml: " in why and "--config-file NAME" in why


def test_images_of_32_px_get_the_small_stem_but_what_is_given_wins(images, monkeypatch):
    for path in images.iterdir():
        Image.open(path).resize((40, 50)).save(path)
    config, why, _ = default_run([f"data.root={images}", "encoder.arch=resnet18"])
    assert (config.encoder.stem, config.views.image_size, config.encoder.arch) == ("small", 32, "resnet18")
    assert "encoder.stem=small views.image_size=32" in why and "no detector takes the small stem" in why


@pytest.mark.parametrize(
    ("method", "word"),
    [("instdis", "method.bank_negatives=5"), ("cmc_v2", "method.queue_size=4"), ("simclr", None)],
)
def test_a_memory_made_for_imagenet_is_made_as_small_as_the_images_and_it_is_said(images, method, word):
    overrides = [f"data.root={images}", "optimizer.batch_size=4"]
    config, why, _ = default_run(overrides, method=method)
    assert (word in why) if word else ("method." not in why)
    assert config.method.num_negatives == (int(word.partition("=")[2]) if word else None)
    given, *_ = default_run([*overrides, "method.queue_size=8", "method.bank_negatives=8"], method=method)
    assert given.method.num_negatives == (8 if word else None)


def test_a_value_that_fits_the_chosen_file_alone_is_taken_and_one_that_fits_none_is_refused_before_the_listing(
    images, monkeypatch
):
    config, *_ = default_run([f"data.root={images}", "method.queue_size=128"], method="moco_v2")
    assert config.method.queue_size == 128
    monkeypatch.setattr(module, "open_source", lambda root: pytest.fail("listed"))
    with pytest.raises(ConfigError, match=r"queue_size 100 expected at least .*batch_size 128"):
        default_run([f"data.root={images}", "method.queue_size=100"], method="moco_v2")


def test_a_few_images_get_a_batch_that_they_fill_and_its_rate(images):
    config, why, _ = default_run([f"data.root={images}"])
    assert (config.optimizer.batch_size, config.optimizer.learning_rate) == (8, pytest.approx(0.06 * 8 / 128))
    assert config.optimizer.warmup_start == pytest.approx(0.006 * 8 / 128)
    assert "optimizer.batch_size=8 optimizer.learning_rate=0.00375" in why
    given, *_ = default_run([f"data.root={images}", "optimizer.learning_rate=0.01"])
    assert (given.optimizer.batch_size, given.optimizer.learning_rate) == (8, 0.01)


@each("epochs, warmup", [(300, 30), (60, 6), (10, 1), (4, 0)])
def test_a_shorter_run_has_a_shorter_slow_start(images, epochs, warmup):
    """With the file's 30 epochs a run of 10 would end at a tenth of its rate, having only fallen."""
    config, why, _ = default_run([f"data.root={images}", f"optimizer.epochs={epochs}"])
    assert config.optimizer.warmup_epochs == warmup
    assert ("optimizer.warmup_epochs" in why) == (epochs != 300)
    given, *_ = default_run([f"data.root={images}", f"optimizer.epochs={epochs}", "optimizer.warmup_epochs=2"])
    assert given.optimizer.warmup_epochs == 2


def test_a_low_rate_has_a_lower_start(images):
    words = [f"data.root={images}", "optimizer.name=adamw", "optimizer.learning_rate=0.0003", "optimizer.batch_size=8"]
    config, why, _ = default_run(words)
    assert config.optimizer.warmup_start == pytest.approx(0.00003) and "optimizer.warmup_start=3e-05" in why


def test_a_queue_gets_groups_of_batchnorm_and_the_methods_own_file_is_named(images, monkeypatch):
    names = [path.name for path in images.iterdir()]
    monkeypatch.setattr(module, "open_source", lambda root: ImageSource(images, names * 100))
    config, why, _ = default_run([f"data.root={images}"], method="moco_v2")
    assert config.method.batchnorm_images == 32 and "small_moco_r18_64px has views and queue" in why
    assert default_run([f"data.root={images}"])[0].method.batchnorm_images == 256  # SimCLR's one group


@pytest.mark.parametrize(
    ("cuda", "count", "said"), [(False, 10, False), (True, 10, True), (False, MANY_IMAGES + 1, True)]
)
def test_the_papers_run_is_named_where_it_fits(images, monkeypatch, cuda, count, said):
    names = [path.name for path in images.iterdir()]
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(module, "open_source", lambda root: ImageSource(images, names * (count // 10 + 1)))
    assert (PAPER in default_run([f"data.root={images}"])[1]) == said


def test_a_run_in_progress_keeps_its_values_though_the_images_are_others_now(images, tmp_path):
    run, begun = tmp_path / "run", load_run_config(LARGEST_FILE, [f"data.root={images}", "optimizer.epochs=3"])
    assert len(list(images.iterdir())) < FILES[0][0]  # another file's number
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(to_plain(begun)))
    config, why, _ = default_run([f"data.root={images}"], output_dir=run)
    assert config == begun and str(run) in why


def test_what_cannot_be_chosen_says_what_to_pass(images, tmp_path):
    with pytest.raises(ConfigError, match=f"pass data.root=IMAGES, .* or --config-file {PAPER}"):
        default_run(["optimizer.epochs=3"])
    with pytest.raises(ConfigError, match="did you mean `data.root`"):
        default_run([f"data.rot={images}"])
    with pytest.raises(ConfigError, match="did you mean `optimizer.epochs`"):
        default_run([f"data.root={tmp_path / 'absent'}", "optimizer.epoch=3"])
    with pytest.raises(DataError, match="found nothing there"):
        default_run([f"data.root={tmp_path / 'absent'}"])


def test_the_command_says_which_file_it_took_and_lists_the_images_once(images, monkeypatch):
    listings = []

    def counted(root):
        listings.append(root)
        return list_names(root)

    def refused(*_, listed, **others):
        raise ConfigError(f"a run of {len(listed)} images")

    monkeypatch.setattr("pretrain.data.source.list_names", counted)
    done = run_tool_here(
        "pretrain.py", f"data.root={images}", "optimizer.batch_size=4", "--show-views", images.parent / "views.png"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no --config-file: 10 images of about 64 px, so small_1k.yaml: simclr")
    assert listings == [images]
    monkeypatch.setattr("pretrain.train.open_stream", refused)
    done = run_tool_here("pretrain.py", f"data.root={images}", "--output-dir", images.parent / "run")
    assert (done.returncode, len(listings)) == (2, 2) and "a run of 10 images" in done.stderr


@each(("side", "expected"), [(20, 32), (70, 64), (500, 224)])
def test_the_usual_side_is_a_multiple_of_the_stride_and_at_most_224(tmp_path, side, expected):
    for index in range(5):
        Image.new("RGB", (side, side + 7)).save(tmp_path / f"{index}.png")
    (tmp_path / "0.png").write_text("no image")
    assert usual_side(ImageSource(tmp_path)) == expected
