"""How an initialisation is called, and which pre-trainings count as one up to their seed."""

from __future__ import annotations

import json

import pytest
import torch

from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.record import experiment_hash
from pretrain.config import experiment_of
from tests.cases import each
from tests.transfer.conversion.checkpoints import ours
from tests.transfer.conversion.checkpoints_libraries import flat
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion import published
from transfer.conversion.initialisation import facts_of, initialisation_of, with_method
from transfer.conversion.weight_files import file_sha256

QUERY, KEY = tiny_state("tiny18", 0), tiny_state("tiny18", 1)
SIDECAR = {
    "format": "infomin-transfer/sidecar", "version": 1, "arch": "resnet18", "detectron2": {}, "proof": {},
    "contract": {"channel_order": "RGB", "mean": [0.5] * 3, "std": [0.2] * 3, "stride_in_1x1": False, "bn_eps": 1e-5, "stem": "7x7"},
}  # fmt: skip
CONFIG = {
    "seed": 3,
    "data": {"root": "a", "num_workers": 8, "skip_unreadable": False},
    "optimizer": {"epochs": 2, "learning_rate": 0.03},
    "runtime": {"device": "cuda"},
}


@pytest.fixture
def weights(tmp_path):
    """A flat file, as torchvision's, DINO's and VICReg's backbones are."""
    torch.save(flat(QUERY, KEY), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def describe(weights, **source):
    """A sidecar of `weights` that says `source`."""
    values = {**SIDECAR, "weights_sha256": file_sha256(weights), "source": source}
    weights.with_suffix(".json").write_text(json.dumps(values))


def named(weights, **options):
    found = initialisation_of(str(weights), **options)
    return found.name, found.source


def test_names_of_tensors_are_no_evidence_of_labels(weights):
    assert named(weights) == ("unknown", "unknown")
    describe(weights, layout="torchvision")
    assert named(weights) == ("unknown", "unknown")
    describe(weights, layout="torchvision", method="dino")
    assert named(weights) == ("dino", "sidecar")


def test_torchvisions_own_file_is_known_by_its_bytes(weights, monkeypatch):
    monkeypatch.setattr(published, "OLDER_TORCHVISION", frozenset({file_sha256(weights)[:8]}))
    assert named(weights) == ("supervised", "catalog")
    torch.save(flat(KEY, QUERY), weights)
    assert named(weights) == ("unknown", "unknown")


def test_the_digits_of_the_installed_torchvision_and_of_older_files_are_known():
    assert all(published.is_supervised_file(f"{digits}{56 * '0'}") for digits in ("0676ba61", "11ad3fa6", "19c8e357"))


def test_what_was_asked_for_comes_first_and_hides_nothing(weights):
    describe(weights, layout="dino", method="dino", pretraining={"seed": 1, "hash": "ab"})
    found = initialisation_of(str(weights), asked="mine")
    assert (found.name, found.source, found.method, found.layout) == ("mine", "asked", "dino", "dino")
    assert found.sha256 == file_sha256(weights) and found.pretraining == {"seed": 1, "hash": "ab"}


def test_a_sidecar_of_another_file_or_a_damaged_one_is_not_believed(weights):
    describe(weights, layout="dino", method="dino")
    assert named(weights) == ("dino", "sidecar")
    torch.save(flat(KEY, QUERY), weights)
    assert named(weights) == ("unknown", "unknown")
    weights.with_suffix(".json").write_text("{")
    assert named(weights) == ("unknown", "unknown")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no weight file at"):
        initialisation_of(str(tmp_path / "absent.pth"))


def test_random_weights_have_their_seed_and_detectron2s_classifiers_their_labels():
    for weights in ("", "random:resnet18"):
        found = initialisation_of(weights, random_seed=5)
        assert (found.name, found.source, found.weights, found.random_seed) == ("random", "random", "", 5)
    assert named("random:resnet18", asked="noise") == ("noise", "asked")
    for weights in (
        "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
        "catalog://ImageNetPretrained/FAIR/X-101-64x4d",
        "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-101.pkl",
    ):
        assert named(weights) == ("supervised", "catalog")
    for weights in ("detectron2://COCO-Detection/x.pkl", "https://example.org/ImageNetPretrained/x.pkl"):
        assert named(weights) == ("unknown", "unknown")


def checkpoint(config=None, **progress):
    progress = {"step": 10, "steps_per_epoch": 5, "images": "fingerprint", **progress}
    return {**ours(QUERY, KEY), "method": "moco_v2", "config": {**CONFIG, **(config or {})}, "progress": progress}


def pretraining(config=None, *, sha256="0", branch=None, **progress):
    return facts_of(checkpoint(config, **progress), sha256=sha256, branch=branch)["pretraining"]


def test_a_run_and_its_checkpoint_are_named_after_their_method(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "step_00000010.pt"
    path.parent.mkdir(parents=True)
    torch.save(checkpoint(), path)
    for weights in (tmp_path / "run", path):
        found = initialisation_of(str(weights))
        assert (found.name, found.source, found.layout) == ("moco_v2", "checkpoint", "infomin-transfer")
        assert found.sha256 == file_sha256(path) and found.pretraining == pretraining()
    assert initialisation_of(str(path), branch="key").pretraining == pretraining(branch="key")


def test_the_last_checkpoint_has_the_hash_of_its_run_and_says_its_seed():
    run = {"config": experiment_of(CONFIG), "data": {"images": "fingerprint"}}
    assert pretraining() == {"seed": 3, "hash": experiment_hash(run)}


@each(
    "config",
    [
        {"seed": 4},
        {"runtime": {"device": "cpu"}},
        {"data": {"root": "b", "num_workers": 0, "skip_unreadable": True}},
    ],
)
def test_pretrainings_that_differ_in_seed_or_place_are_one(config):
    assert pretraining(config)["hash"] == pretraining()["hash"]


def test_other_images_steps_branches_and_settings_are_other_pretrainings():
    others = [
        pretraining(images="other"),
        pretraining(step=5),
        pretraining(branch="key"),
        pretraining({"optimizer": {"epochs": 2, "learning_rate": 0.06}}),
        pretraining(images=None, sha256="1"),  # of older versions: nothing says that two of these saw the same images
        pretraining(images=None, sha256="2"),
    ]
    assert len({found["hash"] for found in [*others, pretraining()]}) == 7
    assert pretraining(branch="query") == pretraining()


def test_a_stated_method_fills_what_is_unknown_and_contradicts_nothing_that_is():
    assert with_method({}, "dino", where="x") == {"method": "dino", "method_source": "asked"}
    known = {"method": "infomin", "method_source": "checkpoint"}
    assert with_method(known, "infomin", where="x") == with_method(known, None, where="x") == known
    with pytest.raises(ConfigError, match="--method dino: x is of method infomin; leave --method out"):
        with_method(known, "dino", where="x")
    stated = {"method": "dino", "method_source": "asked"}  # an earlier statement may be corrected
    assert with_method(stated, "vicreg", where="x")["method"] == "vicreg"
