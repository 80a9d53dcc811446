"""Images, encoder and features of a readout: labels, frozen weights, and views that nothing but (seed, epoch, image) decides."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.data.order import epoch_permutation
from pretrain.data.source import ClassFolders
from pretrain.model.encoder import ResNetEncoder
from pretrain.run.precision import Precision
from pretrain.views.operations import RandomResizedCrop
from pretrain.views.recipes import RECIPES
from tests.transfer.conversion.checkpoints import (
    byol_lucidrains,
    caffe2_with_statistics,
    dino,
    huggingface,
    moco_v2,
    save,
)
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.parity import source_network
from transfer.conversion.sources import load_backbone
from transfer.readout.config import LinearConfig
from transfer.readout.features import (
    FrozenEncoder,
    _without,
    batches_per_epoch,
    cached_batches,
    encode_table,
    few_per_class,
    fresh_batches,
    load_frozen_encoder,
    load_splits,
    pick_device,
    state_hash,
    training_recipe,
)

STATES = [tiny_state("tiny18", seed) for seed in (0, 1)]
TINY = LinearConfig(epochs=3, batch_size=8, image_size=32, device="cpu", precision="fp32", num_workers=0)


class PixelMeans(nn.Module):
    """Features that can be computed by hand: the mean of each channel."""

    feature_dim, arch = 3, "means"

    def forward(self, images):
        return images.mean((2, 3))


def means_encoder(**contract):
    return FrozenEncoder(PixelMeans(), InputContract(**contract), Precision(torch.device("cpu"), None), None)


# --- images


def test_labels_are_the_sorted_class_folders(class_folders):
    train, val = load_splits(class_folders)
    assert train.classes == val.classes == ("blue", "green", "red")
    assert (len(train), len(val)) == (21, 12)
    for images in (train, val):
        for i, label in enumerate(images.labels.tolist()):
            assert images.source[i].parent.name == images.classes[label]


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_split_is_named(class_folders, tmp_path, missing):
    root = shutil.copytree(class_folders, tmp_path / "data")
    shutil.rmtree(root / missing)
    with pytest.raises(DataError, match=rf"no folder .*{missing}.*train/CLASS"):
        load_splits(root)


def test_a_missing_root_and_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(DataError, match="no folder"):
            load_splits(root)


def test_classes_that_differ_are_listed_on_both_sides(class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "data")
    (root / "val" / "red").rename(root / "val" / "rot")
    with pytest.raises(DataError, match=r"only in train/: red; only in val/: rot"):
        load_splits(root)


def test_an_empty_class_and_a_single_class_are_refused(class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "empty")
    shutil.rmtree(root / "val" / "red")
    (root / "val" / "red").mkdir()
    with pytest.raises(DataError, match="red"):
        load_splits(root)
    single = tmp_path / "single"
    for split in ("train", "val"):
        shutil.copytree(class_folders / split / "red", single / split / "red")
    with pytest.raises(DataError, match="two classes"):
        load_splits(single)


def test_unreadable_images_are_named_and_counted(class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "data")
    whole = (root / "train" / "red" / "0.png").read_bytes()
    (root / "train" / "red" / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "val" / "blue" / "1.png").write_bytes(b"")
    (root / "val" / "green" / "2.png").write_text("no image")
    with pytest.raises(DataError, match="train: 1 of 21 images cannot be read") as caught:
        load_splits(root)
    assert "val: 2 of 12 images cannot be read" in str(caught.value)
    assert all(name in str(caught.value) for name in ("red/0.png", "blue/1.png", "green/2.png"))
    assert "pass --skip-unreadable to leave them out" in str(caught.value)
    messages: list[str] = []
    train, val = load_splits(root, skip_unreadable=True, announce=messages.append)
    assert (len(train), len(val)) == (20, 10) and "red/0.png" not in train.source.names
    assert [images.source[i].parent.name for images in (train, val) for i in range(len(images))] == [
        images.classes[label] for images in (train, val) for label in images.labels.tolist()
    ]
    assert [text.split(":")[0] for text in messages] == ["train", "val"]
    assert "1 of 21" in messages[0] and "2 of 12" in messages[1] and "left out" in messages[0]


def test_a_class_without_a_readable_image_is_refused_even_so(class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "data")
    for path in (root / "val" / "red").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="class 'red': none of its images can be read"):
        load_splits(root, skip_unreadable=True)


def test_leaving_images_out_takes_time_by_their_number_alone():
    """Of ImageNet's 1,000 classes and 1.3 million images it would have taken half a minute: a set of all labels for each class."""
    num_classes, size = 3000, 10
    paths = tuple(Path(f"{label}/{number}.jpg") for label in range(num_classes) for number in range(size))
    folders = ClassFolders(
        tuple(map(str, range(num_classes))), paths, tuple(number // size for number in range(len(paths)))
    )
    began = time.process_time()
    assert len(_without(folders, [(paths[0], "torn")]).paths) == len(paths) - 1
    assert time.process_time() - began < 1


def test_a_truncated_jpeg_takes_part_in_a_readout_and_is_named(class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "data")
    path = root / "train" / "red" / "cut.jpg"
    pixels = np.random.default_rng(0).integers(256, size=(512, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    messages: list[str] = []
    train, _ = load_splits(root, announce=messages.append)
    assert "red/cut.jpg" in train.source.names
    assert len(messages) == 1 and "train: 1 of 22 JPEGs lack their last bytes" in messages[0]


def test_of_many_unreadable_images_ten_are_named(class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "data")
    for path in list((root / "train").rglob("*.png"))[:13]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"13 of 21 (.|\n)*and 3 more") as caught:
        load_splits(root)
    assert str(caught.value).count(".png:") == 10


# --- encoder


def test_random_weights_take_the_input_of_the_file_with_which_they_are_compared(monkeypatch) -> None:
    theirs = SimpleNamespace(contract=InputContract("BGR", std=(1 / 255,) * 3, stride_in_1x1=True))
    monkeypatch.setattr("transfer.readout.features.load_encoders", lambda path: theirs)
    alone, like = (load_frozen_encoder(f"random:resnet50{of}", TINY, branch=None) for of in ("", ":theirs.pth"))
    assert (alone.contract, like.contract) == (InputContract(), theirs.contract)
    strides = [encoder.module.layer2[0].conv1.stride for encoder in (alone, like)]
    assert strides == [(1, 1), (2, 2)]


def test_random_weights_are_decided_by_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    a, b, c = (load_frozen_encoder("random:resnet18", replace(TINY, seed=seed), branch=None) for seed in (1, 1, 2))
    a, b, c = (encoder.module.conv1.weight for encoder in (a, b, c))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_encoder_is_frozen_and_in_evaluation_mode():
    encoder = load_frozen_encoder("random:resnet18", TINY, branch=None)
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    assert not any(module.training for module in encoder.module.modules())
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = state_hash(encoder.module)
    together = encoder.features(images)
    alone = torch.cat([encoder.features(image[None]) for image in images])  # batch statistics would show here
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not together.requires_grad and state_hash(encoder.module) == before


def test_pixels_reach_the_encoder_as_its_contract_wants_them():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    rgb = images.double().div(255).mean((2, 3))
    expected = (rgb - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(
        means_encoder(mean=mean, std=std).features(images).double(), expected, rtol=1e-4, atol=1e-5
    )
    bgr = means_encoder(mean=mean, std=std, channel_order="BGR").features(images).double()
    torch.testing.assert_close(bgr, (rgb.flip(1) - torch.tensor(mean)) / torch.tensor(std), rtol=1e-4, atol=1e-5)


def test_the_hash_sees_the_last_bit_of_every_tensor_and_counter():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    seen = {state_hash(module)}
    for tensor in module.state_dict().values():
        bits = tensor.view(-1).view(torch.uint8)
        bits[0] ^= 1
        seen.add(state_hash(module))
        bits[0] ^= 1
    assert len(seen) == 1 + len(module.state_dict()) and state_hash(module) in seen


@pytest.mark.parametrize(
    ("weights", "branch", "error", "words"),
    [
        ("random:resnet19", None, ConfigError, "resnet19"),
        ("random", None, ConfigError, "expected one of"),
        ("random:resnet18", "key", ConfigError, "no branches"),
        ("nothing.pth", None, CheckpointError, "nothing.pth"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights, branch, error, words):
    with pytest.raises(error, match=words):
        load_frozen_encoder(weights, TINY, branch=branch)


def give_backbone(monkeypatch, tensors, **contract):
    contract = InputContract(**contract)
    encoders = SimpleNamespace(
        arch="resnet18", stem="imagenet", towers={"RGB": tensors}, contract=contract, sha256="ab" * 32
    )
    monkeypatch.setattr("transfer.readout.features.load_encoders", lambda path, *, branch=None: encoders)


def test_a_checkpoints_tensors_arrive_unchanged_with_its_contract(monkeypatch):
    torch.manual_seed(5)
    source = ResNetEncoder("resnet18")
    tensors = {name: t for name, t in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    give_backbone(monkeypatch, tensors, bn_eps=1e-3)
    encoder = load_frozen_encoder("some.pth", TINY, branch="key")
    for name, tensor in tensors.items():
        assert torch.equal(encoder.module.state_dict()[name], tensor), name
    assert {m.eps for m in encoder.module.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert encoder.sha256 == "ab" * 32


def test_a_missing_or_foreign_tensor_is_named(monkeypatch):
    tensors = ResNetEncoder("resnet18").state_dict()
    lost = {name: tensor for name, tensor in tensors.items() if name != "layer1.0.conv1.weight"}
    give_backbone(monkeypatch, lost | {"fc.weight": torch.zeros(1)})
    with pytest.raises(
        CheckpointError, match=r"1 backbone tensors missing \(layer1.0.conv1.weight\), 1 not .*fc.weight"
    ):
        load_frozen_encoder("some.pth", TINY, branch=None)


def test_an_encoder_of_another_make_is_refused(monkeypatch):
    give_backbone(monkeypatch, {}, stem="deep")
    with pytest.raises(CheckpointError, match="expects a ResNet with the basic or the small stem, found stem='deep'"):
        load_frozen_encoder("some.pth", TINY, branch=None)


def same(encoder, state):
    """Whether the encoder holds these tensors, all of them."""
    found = encoder.module.state_dict()
    return set(found) == set(state) and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("layout", "make", "branches"),
    [
        ("dino", dino, ("teacher", "student")),
        ("moco", moco_v2, ("query", "key")),
        ("byol-lucidrains", byol_lucidrains, ("online", "target")),
    ],
)
def test_every_branch_of_a_layout_is_read_as_the_converter_reads_it(
    tiny_architectures, tmp_path, layout, make, branches
):
    """The branch of that name, and no other; without a name the layout's default."""
    path = save(make(*STATES), tmp_path, layout=layout)
    for branch in branches:
        (which,) = [
            index
            for index, state in enumerate(STATES)
            if same(load_frozen_encoder(str(path), TINY, branch=branch), state)
        ]
        assert torch.equal(load_backbone(path, branch=branch).tensors["conv1.weight"], STATES[which]["conv1.weight"])
    first, default = (load_frozen_encoder(str(path), TINY, branch=branch) for branch in (branches[0], None))
    assert same(default, first.module.state_dict())
    with pytest.raises(ConfigError, match=f"holds {', '.join(branches)}; pass one of these"):
        load_frozen_encoder(str(path), TINY, branch="nobody")


def test_a_hugging_face_folder_and_its_safetensors_are_read(tiny_architectures, tmp_path):
    state = {name: tensor.contiguous() for name, tensor in huggingface(*STATES).items()}
    save_file(state, tmp_path / "model.safetensors")
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        encoder = load_frozen_encoder(str(weights), TINY, branch=None)
        assert same(encoder, STATES[0]) and encoder.contract.mean == (0.5, 0.4, 0.3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is a folder without"):
        load_frozen_encoder(str(tmp_path / "empty"), TINY, branch=None)


def test_a_stride_in_the_1x1_is_built_where_the_weights_have_it(tiny_architectures, tmp_path):
    """MSRA's networks: with the stride elsewhere the same tensors compute something else."""
    state = tiny_state("tiny50")
    path = save(caffe2_with_statistics(state, state), tmp_path, layout="caffe2")
    encoder = load_frozen_encoder(str(path), TINY, branch=None)
    assert encoder.contract.stride_in_1x1
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, other = encoder.module, ResNetEncoder("tiny50").eval()
    wanted = source_network(load_backbone(path))
    other.load_state_dict(found.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(found(images), wanted(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(other(images), wanted(images), rtol=1e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_without_a_device_says_what_to_type():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device=cpu"):
        pick_device("cuda")


# --- views and batches


def test_the_training_recipe_is_crop_and_flip_with_the_configured_scale():
    ops = training_recipe(replace(TINY, crop_scale=(0.4, 0.9))).ops
    assert [type(op).__name__ for op in ops] == ["RandomResizedCrop", "HorizontalFlip"]
    assert isinstance(ops[0], RandomResizedCrop) and ops[0].scale == (0.4, 0.9)


def test_every_epoch_shows_every_image_once_and_drops_none(class_folders):
    train, _ = load_splits(class_folders)
    batches = list(fresh_batches(means_encoder(), train, TINY))
    assert [len(labels) for _, labels in batches] == [8, 8, 5] * 3 and batches_per_epoch(21, TINY) == 3
    for epoch in range(3):
        labels = torch.cat([labels for _, labels in batches[3 * epoch : 3 * epoch + 3]])
        assert labels.bincount().tolist() == [7, 7, 7]


def test_fresh_views_are_new_in_every_epoch(class_folders):
    train, _ = load_splits(class_folders)
    order = [torch.tensor(epoch_permutation(21, seed=0, epoch=epoch)) for epoch in range(2)]
    batches = [features for features, _ in fresh_batches(means_encoder(), train, TINY)]
    epochs = [torch.cat(batches[3 * e : 3 * e + 3])[order[e].argsort()] for e in range(2)]
    assert (epochs[0] != epochs[1]).any(dim=1).sum() > 18


def cached(train, num_views, config=TINY):
    table = encode_table(means_encoder(), train, training_recipe(config), config, num_views=num_views, title="t")
    return table, list(cached_batches(table, train.labels, config))


def test_a_view_cached_for_every_epoch_is_the_fresh_view(class_folders):
    train, _ = load_splits(class_folders)
    fresh = list(fresh_batches(means_encoder(), train, TINY))
    for (a, labels_a), (b, labels_b) in zip(fresh, cached(train, 3)[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert torch.equal(labels_a, labels_b)


def test_fewer_cached_views_come_round_again_in_the_order_of_the_epoch(class_folders):
    train, _ = load_splits(class_folders)
    table, batches = cached(train, 2)
    assert table.shape == (2, 21, 3) and not torch.equal(table[0], table[1])
    for epoch, view in enumerate([0, 1, 0]):
        features = torch.cat([f for f, _ in batches[3 * epoch : 3 * epoch + 3]])
        assert torch.equal(features, table[view][torch.tensor(epoch_permutation(21, seed=0, epoch=epoch))])


def test_validation_is_the_resized_centre(tmp_path):
    for split in ("train", "val"):
        for name, side in (("dark", 20), ("light", 230)):
            (tmp_path / split / name).mkdir(parents=True)
            pixels = np.full((80, 160, 3), side, dtype=np.uint8)
            pixels[:, :30] = pixels[:, -30:] = 128  # a centre crop of a wide image never shows its ends
            Image.fromarray(pixels).save(tmp_path / split / name / "0.png")
    _, val = load_splits(tmp_path)
    table = encode_table(
        means_encoder(mean=(0, 0, 0), std=(1, 1, 1)), val, RECIPES["center"], TINY, num_views=1, title="validation"
    )
    assert (table[0] * 255).round().tolist() == [[20.0] * 3, [230.0] * 3]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_no_feature(class_folders, num_workers):
    train, _ = load_splits(class_folders)
    config = replace(TINY, epochs=2)
    alone = list(fresh_batches(means_encoder(), train, config))
    shared = list(fresh_batches(means_encoder(), train, replace(config, num_workers=num_workers)))
    for (a, labels_a), (b, labels_b) in zip(alone, shared, strict=True):
        assert torch.equal(a, b) and torch.equal(labels_a, labels_b)


def test_batch_size_changes_no_view(class_folders):
    train, _ = load_splits(class_folders)
    tables = [cached(train, 2, replace(TINY, batch_size=size))[0] for size in (4, 16)]
    torch.testing.assert_close(*tables, rtol=1e-6, atol=1e-6)


def test_another_seed_draws_other_views(class_folders):
    train, _ = load_splits(class_folders)
    tables = [cached(train, 1, replace(TINY, seed=seed))[0] for seed in (0, 1)]
    assert not torch.equal(*tables)


def test_few_labels_are_drawn_evenly_by_the_seed(class_folders):
    train, _ = load_splits(class_folders)
    few = few_per_class(train, 2, seed=0)
    assert torch.bincount(few.labels).tolist() == [2] * len(train.classes) and few.classes == train.classes
    where = {name: int(label) for name, label in zip(train.source.names, train.labels, strict=True)}
    assert [where[name] for name in few.source.names] == few.labels.tolist()
    assert few_per_class(train, 2, seed=0).source.names == few.source.names
    assert len({few_per_class(train, 2, seed=seed).source.names for seed in range(8)}) > 1
    assert few_per_class(train, 10_000, seed=0).source.names == train.source.names
    shares = [set(few_per_class(train, share, seed=3).source.names) for share in (0.01, 0.3, 0.6, 1.0)]
    assert shares[0] < shares[1] < shares[2] < shares[3] == set(train.source.names)
    assert len(shares[0]) == len(train.classes)  # one image of each
