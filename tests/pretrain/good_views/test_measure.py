"""Measuring a run's views: the figures of its own critic on held-out pairs, against the definition; bad input is refused."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.base.image_files import read_image
from pretrain.base.record import read_record
from pretrain.config import method_values
from pretrain.data.loader import ViewBatch
from pretrain.data.manifest import check_image_set, write_record
from pretrain.data.order import GlobalBatches
from pretrain.good_views import measure as measure_module
from pretrain.good_views.measure import MeasureRequest, describe, load_critic, measure_views
from pretrain.model.channels import channels_of
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.state import build_state
from pretrain.views.pipeline import ViewMaker, normalize
from pretrain.views.recipe_file import recipe_of

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

CPU = choose_precision("fp32", torch.device("cpu"))


def write_run(folder, config):
    """The checkpoint of an untrained run: its critic is as good as any to be read."""
    state = build_state(config, InputContract(), num_images=18, precision=CPU, ranks=Ranks())
    path = checkpoint_path(folder / "checkpoints", 0)
    write_checkpoint(path, state.state_dict(config, InputContract(), 2))
    return path


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    """A checkpoint, read only."""
    return write_run(tmp_path_factory.mktemp("measured") / "run", tiny_config())


@pytest.fixture(scope="module")
def plain(run, image_folder):
    """(result, messages) of the run on all images, seed 0."""
    return measure(run, image_folder)


def measure(checkpoint, data, *, output=None, **over):
    values = {"batch_size": 6, "precision": "fp32", "device": "cpu", **over}
    messages: list[str] = []
    request = MeasureRequest(checkpoint, data, **values)
    return measure_views(request, output=output, announce=messages.append), messages


def test_i_nce_is_the_definition_on_the_run_s_own_views(run, image_folder):
    record, messages = measure(run, image_folder, seed=3)
    critic = load_critic(run, CPU)
    config = critic.config
    make = ViewMaker(recipe_of(config.views.recipe, config.views.overrides), image_size=32)
    paths = sorted(image_folder.iterdir())
    batches = GlobalBatches(18, 6, seed=3)
    values = []
    for step in range(3):
        rows = batches.batch(step)[1].tolist()
        views = torch.stack([make(read_image(paths[i]), seed=3, epoch=0, index=i).images for i in rows])
        with torch.no_grad():
            queries = critic.method.query(normalize(views[:, 0], InputContract())).instance
            keys = critic.method.key(normalize(views[:, 1], InputContract()))
        logits = (queries @ keys.T).double() / config.method.temperature
        values.append(math.log(6) + torch.log_softmax(logits, 1).diagonal().mean().item())
    assert record.figures["info_nce"] == pytest.approx(np.mean(values), abs=1e-4)
    information = record.details["information"]
    assert information["ceiling"] == pytest.approx(math.log(6)) and information["nats"] == record.figures["info_nce"]
    assert (information["num_pairs"], information["num_negatives"]) == (18, 5)
    assert set(record.figures) == set(record.details["bounds"]) == {"info_nce", "donsker_varadhan", "nwj", "smile"}
    assert "18 of 18 images, 3 batches of 6 pairs, recipe infomin" in messages[-1]


@pytest.mark.parametrize("name", ["instdis", "cmc", "cmc_v2", "simclr"])
def test_the_critic_of_every_memory_is_that_of_its_first_contrast(tiny_config, image_folder, tmp_path, name):
    values = method_values(name)["method"]
    config = tiny_config(method={**values, "bank_negatives": 9}, views={"recipe": "moco_v2"})
    critic = load_critic(write_run(tmp_path / "run", config), CPU)
    method, two = critic.method, "cmc" in name
    images = torch.stack([torch.from_numpy(read_image(path)) for path in sorted(image_folder.iterdir())[:5]])
    images = images.permute(0, 3, 1, 2)
    batch = ViewBatch(torch.arange(5), torch.stack([images, images.flip(-1)], dim=1))
    query, key = critic.embed(batch)
    towers = (method.query.Y, method.query.DbDr) if two else (method.query, method.query)
    other = method.key.DbDr if name == "cmc_v2" else None
    first, second = (channels_of(view, tower, InputContract()) for view, tower in zip((images, images.flip(-1)), ("Y", "DbDr") if two else ("RGB", "RGB"), strict=True))  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(query, towers[0](first).instance)
        torch.testing.assert_close(key, other(second) if other else towers[1](second).instance)
    record, _ = measure(write_run(tmp_path / "again", config), image_folder)
    assert math.isfinite(record.figures["info_nce"])


def test_the_record_names_the_run_and_its_subject_is_out_of_the_hash(run, tiny_config, image_folder, plain, tmp_path):
    record = plain[0]
    state = read_checkpoint(run)
    assert record.seeds == {"run": 0, "pretraining": state["config"]["seed"]}
    start = record.initialisation
    assert (start.name, start.source) == (state["method"], "checkpoint")
    assert start.sha256 == hashlib.sha256(run.read_bytes()).hexdigest()
    other = write_run(tmp_path / "other", tiny_config(seed=5, method={"temperature": 0.3}))
    measured, _ = measure(other, image_folder, seed=1)
    assert measured.hash == record.hash and measured.initialisation.pretraining != start.pretraining
    assert measure(run, image_folder, passes=2)[0].hash != record.hash


def test_the_file_says_running_until_it_is_done_and_a_finished_one_is_kept(run, image_folder, tmp_path, monkeypatch):
    file, seen = tmp_path / "new" / "m.json", []
    honest = measure_module._estimates

    def watched(*arguments, **options):
        seen.append(read_record(file).status)
        return honest(*arguments, **options)

    monkeypatch.setattr(measure_module, "_estimates", watched)
    record, _ = measure(run, image_folder, output=file)
    assert seen == ["running"] and read_record(file) == record and record.status == "done"
    again, messages = measure(run, image_folder, output=file)
    assert len(seen) == 1 and again == record and "finished already" in messages[-1]
    with pytest.raises(ConfigError, match=r"finished measurement.*config\.passes: 1 there, 2 now"):
        measure(run, image_folder, output=file, passes=2)
    (tmp_path / "thesis.json").write_text("{}")
    with pytest.raises(DataError, match=r"thesis\.json is not a record"):
        measure(run, image_folder, output=tmp_path / "thesis.json")
    assert (tmp_path / "thesis.json").read_text() == "{}" and len(seen) == 1


def test_it_is_a_function_of_the_seed_and_not_of_training_mode(run, image_folder, plain):
    assert measure(run, image_folder)[0].details == plain[0].details
    assert measure(run, image_folder, seed=1)[0].details["bounds"] != plain[0].details["bounds"]
    assert not load_critic(run, CPU).method.training


def test_more_passes_are_more_pairs_in_new_views(run, image_folder, plain):
    record, _ = measure(run, image_folder, passes=2)
    assert record.details["information"]["num_pairs"] == 36
    assert record.figures["info_nce"] != plain[0].figures["info_nce"]


def test_a_critic_that_knows_the_image_is_saturated_and_says_so(tiny_config, tmp_path):
    """Views that are equal (one fixed crop) and embeddings far apart: I_NCE runs into its ceiling."""
    recipe = {"name": "same", "ops": [{"op": "CenterCrop"}]}
    config = tiny_config(views={"recipe": recipe}, method={"jigsaw": False, "temperature": 0.01, "head": "linear"})
    path = write_run(tmp_path / "run", config)
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(12):
        flat = np.broadcast_to(rng.integers(0, 256, 3), (40, 40, 3)).astype(np.uint8)
        Image.fromarray(flat).save(tmp_path / "images" / f"{index}.png")
    record, _ = measure(path, tmp_path / "images")
    assert record.details["information"]["saturated"] and record.details["warning"] is not None
    assert "SATURATED" in describe(record) and record.details["warning"] in describe(record)
    larger, _ = measure(path, tmp_path / "images", batch_size=12)
    assert larger.details["information"]["ceiling"] == pytest.approx(math.log(12))


def test_the_training_images_are_not_held_out_ones_and_that_is_reported(run, image_folder, tmp_path):
    copy = Path(shutil.copytree(run.parent.parent, tmp_path / "run"))
    run = copy / "checkpoints" / run.name
    _, images = check_image_set(
        image_folder, skip_unreadable=False, recorded=None, ranks=Ranks(), announce=lambda text: None
    )
    write_record(run.parent.parent, images)
    record, messages = measure(copy, image_folder)  # the run stands for its newest checkpoint
    assert record.initialisation.weights == str(run)
    assert record.details["same_as_training"] and "not held-out ones" in messages[0]
    other = shutil.copytree(image_folder, tmp_path / "other")
    (other / "000.png").unlink()
    record, messages = measure(run, other)
    assert not record.details["same_as_training"] and "held-out" not in messages[0]


def test_paired_views_are_measured_without_the_recipe_s_file(tiny_config, image_folder, tmp_path):
    """The whole recipe is in the checkpoint."""
    from pretrain.config import load_run_config

    (tmp_path / "recipe.yaml").write_text("name: apart\nops: [{op: PatchDistance, patch: 32, distance: 4}]\n")
    (tmp_path / "run.yaml").write_text(
        f"data: {{root: {image_folder}, num_workers: 0}}\nencoder: {{arch: resnet18}}\n"
        f"base: methods/moco_v2.yaml\nmethod: {{queue_size: 20, batchnorm_images: 4}}\noptimizer: {{batch_size: 8}}\n"
        f"views: {{recipe: {tmp_path / 'recipe.yaml'}, image_size: 32}}\n"
    )
    path = write_run(tmp_path / "run", load_run_config(tmp_path / "run.yaml"))
    (tmp_path / "recipe.yaml").unlink()
    assert measure(path, image_folder)[0].details["recipe"] == "apart"
    small = tmp_path / "small"
    small.mkdir()
    for index in range(12):
        Image.fromarray(np.zeros((35, 60, 3), dtype=np.uint8)).save(small / f"{index}.png")
    with pytest.raises(DataError, match="36 px or more; 12 of 12 are smaller, down to 35 px"):
        measure(path, small)


def test_too_few_images_are_counted(run, image_folder):
    with pytest.raises(DataError, match=r"18 images do not fill one batch of 19 pairs.*pass --batch-size 18"):
        measure(run, image_folder, batch_size=19)


def test_too_few_pairs_are_counted(run, image_folder, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(image_folder.iterdir())[:7]:
        shutil.copy(path, few)
    with pytest.raises(DataError, match=r"7 images make 6 pairs in whole batches of 6; expected 8 pairs or more"):
        measure(run, few)
    assert measure(run, few, passes=2)[0].details["information"]["num_pairs"] == 12


def test_what_is_no_checkpoint_of_ours_is_refused(image_folder, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    for path in (tmp_path / "other.pt", tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError):
            measure(path, image_folder)


@pytest.mark.parametrize("over", [{"batch_size": 1}, {"passes": 0}, {"seed": -1}, {"num_workers": -1}])
def test_values_out_of_range_are_refused(tmp_path, over):
    with pytest.raises(ConfigError, match="expected a batch size of 2 or more"):
        MeasureRequest(tmp_path, tmp_path, **over)
