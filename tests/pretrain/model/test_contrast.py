"""One step of the method compared with the same step written out by hand [specification 1.5]."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pretrain.base.contract import IMAGENET_MEAN, IMAGENET_STD, InputContract
from pretrain.base.errors import ConfigError
from pretrain.config import ContrastConfig, DataConfig, EncoderConfig, MethodConfig, OptimizerConfig, RunConfig
from pretrain.data.loader import ViewBatch
from pretrain.model.contrast import batchnorm_groups, build_method, rows_of_memory
from pretrain.run.ranks import Ranks
from tests.pretrain.model.tiny_methods import batch_of, build, preset, use_tiny_encoders


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch):
    """What is compared is the step; tests/golden/test_trajectory.py takes steps of a real encoder by hand."""
    use_tiny_encoders(monkeypatch)


def random_batch(count=4, size=32, patch=16):
    generator = torch.Generator().manual_seed(0)
    return ViewBatch(
        index=torch.arange(count),
        images=torch.randint(0, 256, (count, 2, 3, size, size), dtype=torch.uint8, generator=generator),
        patches=torch.randint(0, 256, (count, 9, 3, patch, patch), dtype=torch.uint8, generator=generator),
        permutation=torch.stack([torch.randperm(9, generator=generator) for _ in range(count)]),
    )


def method_of(**settings):
    config = MethodConfig(**{"queue_size": 50, "feature_dim": 16, **settings})
    return build_method(
        encoder=EncoderConfig("resnet18_half"), config=config, contract=InputContract(), seed=3, num_images=60
    )


def take_step(method, batch):
    return method.step(batch, forward=method.trained, ranks=Ranks(), step=0)


def test_a_step_is_the_formula_written_out():
    batch, beta, temperature = random_batch(), 0.3, 0.15
    method = method_of(jigsaw_weight=beta, temperature=temperature)
    written = method_of(jigsaw_weight=beta, temperature=temperature)
    output = take_step(method, batch)

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    floats = (batch.images.double() / 255 - mean) / std
    query, jigsaw_head = written.query, written.query.jigsaw_head
    q = F.normalize(query.head.layers(query.encoder(floats[:, 0].float())), dim=1)
    patches = ((batch.patches.double() / 255 - mean) / std).float().flatten(0, 1)
    per_patch = jigsaw_head.patch_layers(query.encoder(patches)).view(4, 9, -1)
    ordered = torch.stack([row[order] for row, order in zip(per_patch, batch.permutation, strict=True)])
    q_jigsaw = F.normalize(jigsaw_head.mix(ordered.flatten(1)), dim=1)
    with torch.no_grad():
        k = F.normalize(written.key.head.layers(written.key.encoder(floats[:, 1].float())), dim=1)

    def nce(embedding):
        logits = torch.cat([(embedding * k).sum(1, keepdim=True), embedding @ written.memory.features.T], 1)
        return F.cross_entropy(logits / temperature, torch.zeros(4, dtype=torch.long))

    expected = (1 - beta) * nce(q) + beta * nce(q_jigsaw)  # the same key and queue for both
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.remembered["RGB"], k, rtol=1e-4, atol=1e-5)


def test_without_jigsaw_there_is_one_loss_and_no_patch_parameters():
    method = method_of(name="moco_v2", jigsaw=False)
    output = take_step(method, random_batch())
    assert output.loss == output.figures["loss_instance"]
    assert not any("jigsaw" in name for name in method.state_dict())


def test_key_network_takes_no_gradient_and_follows_after_the_step():
    method = method_of(momentum=0.9)
    output = take_step(method, random_batch())
    output.loss.backward()
    assert all(parameter.grad is None for parameter in method.key.parameters())
    assert all(parameter.grad is not None for parameter in method.query.parameters())
    with torch.no_grad():
        method.query.head.layers[0].weight.add_(1.0)
    before = method.key.head.layers[0].weight.clone()
    method.after_step([output], ranks=Ranks(), momentum=0.9)
    torch.testing.assert_close(method.key.head.layers[0].weight, before + 0.1, rtol=1e-4, atol=1e-4)
    assert torch.equal(method.memory.features[:4], output.remembered["RGB"])
    assert method.memory.pointer == 4


def test_patches_do_not_touch_the_statistics_of_the_images():
    """Patches are a forward of their own: the instance embedding is the same whatever they hold."""
    batch = random_batch()
    first = take_step(method_of(), batch).figures["loss_instance"]
    other = take_step(method_of(), replace(batch, patches=torch.zeros_like(batch.patches))).figures["loss_instance"]
    assert first == other


def test_initialisation_is_a_function_of_the_seed():
    first, second = method_of().state_dict(), method_of().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_fraction_of_the_batch_can_take_the_jigsaw_branch():
    batch = random_batch(count=4)
    method = method_of(jigsaw_fraction=0.5)
    seen = []
    method.query.jigsaw_head.register_forward_hook(lambda _, args, out: seen.append((args[0].shape[0], out.shape[0])))
    output = take_step(method, batch)
    assert seen == [(18, 2)] and torch.isfinite(output.loss)
    other = replace(batch, patches=batch.patches.clone())
    other.patches[2:] = 0  # the patches of the other half play no part
    assert torch.equal(take_step(method_of(jigsaw_fraction=0.5), other).loss, output.loss)


SMALL = MethodConfig(head="mlp_bn", batchnorm_images=64, jigsaw_fraction=0.0625)  # small_r18_64px.yaml, of 128 images


@pytest.mark.parametrize(
    ("config", "batch_size", "ranks", "advice", "better"),
    [
        (SMALL, 128, 8, "jigsaw_fraction=0.125 ", {"jigsaw_fraction": 0.125}),
        (replace(SMALL, batchnorm_images=8), 128, 1, "jigsaw_fraction=0.25 ", {"jigsaw_fraction": 0.25}),
        (replace(SMALL, batchnorm_images=1), 128, 1, "batchnorm_images=2 ", {"batchnorm_images": 2, "jigsaw": False}),
        (MethodConfig(), 4, 4, "batch_size=8 ", {"batch_size": 8}),
        (MethodConfig(), 1, 1, "batch_size=2 ", {"batch_size": 2}),
        (
            replace(SMALL, head="mlp", batchnorm_images=4, jigsaw_fraction=0.01),
            128,
            1,
            "jigsaw_fraction=0.0625 ",
            {"jigsaw_fraction": 0.0625},
        ),
        (SMALL, 128, 3, "batch_size=126", {"batch_size": 126}),
    ],
)
def test_an_image_alone_in_a_batchnorm_group_is_refused_with_what_fits(config, batch_size, ranks, advice, better):
    with pytest.raises(ConfigError, match=f"pass (method|optimizer).{advice}"):
        batchnorm_groups(config, batch_size=batch_size, world_size=ranks)
    batch_size = better.pop("batch_size", batch_size)
    batchnorm_groups(
        replace(config, **better), batch_size=batch_size, world_size=ranks
    )  # control: what it says is taken


def test_what_is_refused_could_not_have_been_computed():
    batch = random_batch(count=4)
    alone, together = (method_of(head="mlp_bn", jigsaw_fraction=fraction) for fraction in (0.25, 0.5))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        take_step(alone, batch)
    take_step(together, batch)  # control


def test_a_tower_that_asks_nothing_is_refused():
    contrasts = (ContrastConfig("Y", "DbDr"),)
    with pytest.raises(ValueError, match="queries of every tower.*found none of DbDr"):
        MethodConfig(towers=("Y", "DbDr"), contrasts=contrasts)
    MethodConfig(towers=("Y", "DbDr"), contrasts=(*contrasts, ContrastConfig("DbDr", "DbDr")))  # control


def test_a_symmetric_queue_holds_the_keys_of_both_views():
    batch, method = random_batch(), method_of(symmetric=True, jigsaw=False)
    output = take_step(method, batch)
    swapped = take_step(method_of(symmetric=True, jigsaw=False), replace(batch, images=batch.images.flip(1)))
    torch.testing.assert_close(output.loss, swapped.loss)  # either view may come first
    plain = take_step(method_of(jigsaw=False), batch)
    assert not torch.allclose(output.loss, plain.loss)  # control
    assert torch.equal(output.remembered["RGB"][::2], plain.remembered["RGB"])
    method.after_step([output], ranks=Ranks(), momentum=0.9)
    assert method.memory.pointer == 8
    with pytest.raises(ValueError, match="twice with method.symmetric"):
        RunConfig(
            data=DataConfig("images"),
            method=MethodConfig(symmetric=True, queue_size=10),
            optimizer=OptimizerConfig(batch_size=8),
        )


def test_state_of_one_tower_keeps_its_names_and_that_of_two_has_theirs(monkeypatch):
    monkeypatch.undo()  # real encoders have the names
    one = method_of().state_dict()
    assert {name.split(".")[0] for name in one} == {"query", "key", "memory"}
    assert {"query.encoder.conv1.weight", "query.jigsaw_head.mix.weight", "key.head.layers.0.bias"} <= set(one)
    assert {"memory.features", "memory.pointer"} <= set(one)
    contrasts = (ContrastConfig("Y", "DbDr"), ContrastConfig("DbDr", "Y"))
    two = method_of(towers=("Y", "DbDr"), contrasts=contrasts, memory="bank", bank_negatives=9)
    shapes = {name: tuple(value.shape) for name, value in two.state_dict().items()}
    assert {name.split(".")[0] for name in shapes} == {"query", "memory"}  # no key network
    assert shapes["query.Y.encoder.conv1.weight"][1:] == (1, 7, 7)
    assert shapes["query.DbDr.encoder.conv1.weight"][1:] == (2, 7, 7)
    assert shapes["memory.Y.features"] == shapes["memory.DbDr.features"] == (60, 16)
    assert rows_of_memory(two.state_dict()) == 60 and rows_of_memory(one) == 50
    assert not torch.equal(two.state_dict()["memory.Y.features"], two.state_dict()["memory.DbDr.features"])
    two.load_state_dict(two.state_dict())
    assert {id(p) for p in two.trained.parameters()} == {id(p) for p in two.query.parameters()}


def test_a_batch_that_is_its_own_memory_shares_its_statistics():
    """A query's positive must not be the only other embedding that its BatchNorm group has normalised."""
    config = MethodConfig(memory="batch", batchnorm_images=4, jigsaw=False)
    assert batchnorm_groups(config, batch_size=32, world_size=2) == 1
    assert batchnorm_groups(replace(config, memory="queue"), batch_size=32, world_size=2) == 4
    assert batchnorm_groups(replace(config, memory="queue", batchnorm="synchronised"), batch_size=32, world_size=2) == 1


@pytest.mark.parametrize("name", ["cmc_v2", "cmc"])
def test_a_step_that_is_not_sound_is_remembered_nowhere(name):
    """On a GPU the loop learns of it one step later (pretrain/run/watch.py): what the memory holds must be sound by then."""
    for sound in (False, True):  # True: control
        method, batch = build(preset(name)), batch_of(4, step=0)
        before = {tower: memory.features.clone() for tower, memory in method.memories.items()}
        output = method.step(batch, forward=method.trained, ranks=Ranks(), step=0)
        method.after_step([output], ranks=Ranks(), momentum=0.9, sound=torch.tensor(sound))
        for tower, memory in method.memories.items():
            assert torch.equal(memory.features, before[tower]) != sound, tower
