"""Every preset against the slow NumPy reference: several steps in a row, logits, losses, gradients, key networks and memories."""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
import torch

from pretrain.model import contrast
from pretrain.model import loss as loss_module
from pretrain.model import memory as memory_module
from pretrain.model.channels import channels_of
from pretrain.run.ranks import Ranks
from tests.pretrain.model import reference
from tests.pretrain.model.tiny_methods import NUM_IMAGES, PRESETS, SEED, batch_of, build, preset, use_tiny_encoders

TOLERANCE = 1e-6
STEPS = 5


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    use_tiny_encoders(monkeypatch)


@pytest.fixture
def logits(monkeypatch):
    """(positive, negatives) of every call of the softmax, in order."""
    seen = []
    honest = loss_module._cross_entropy

    def watched(positive, negatives, temperature):
        seen.append((positive.detach().numpy(), negatives.detach().numpy()))
        return honest(positive, negatives, temperature)

    monkeypatch.setattr(loss_module, "_cross_entropy", watched)
    return seen


def arrays(module):
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def rows_by_hand(method, batch, num_jigsaw):
    """Name -> embedding of every query and key of the batch: encoders by torch, heads in NumPy."""
    config, rows = method.config, {}

    def features(encoder, images, tower):
        with torch.no_grad():
            return copy.deepcopy(encoder)(channels_of(images, tower, method.contract, dtype=torch.float64)).numpy()

    def embed(network, images, tower):
        weights = arrays(network.head.layers)
        return reference.unit(reference.project(weights, config.head, features(network.encoder, images, tower)))

    for tower in config.towers:
        query = method.query_networks[tower]
        if config.memory == "batch":  # one forward of both views
            both = embed(query, torch.cat([batch.images[:, 0], batch.images[:, 1]]), tower)
            views = np.split(both, 2)
        else:
            views = [embed(query, batch.images[:, view], tower) for view in range(2 if config.symmetric else 1)]
        for view, embedded in enumerate(views):
            rows |= {("view", tower, view, image): row for image, row in enumerate(embedded)}
        if config.jigsaw:
            patches = features(query.encoder, batch.patches[:num_jigsaw].flatten(0, 1), tower)
            order = batch.permutation[:num_jigsaw].numpy()
            nine = reference.jigsaw(arrays(query.jigsaw_head), config.head, patches, order)
            rows |= {("jigsaw", tower, image): row for image, row in enumerate(nine)}
        if config.memory == "queue":
            for view in (0, 1):
                keys = embed(method.key_networks[tower], batch.images[:, view], tower)
                rows |= {("key", tower, view, image): row for image, row in enumerate(keys)}
    return rows


def close(found, expected, what):
    gap = np.abs(np.asarray(found) - np.asarray(expected)).max()
    assert gap < TOLERANCE, f"{what}: differs by {gap:.3g}"


def compare_logits(seen, terms, expected):
    """Each call of the softmax holds a query's positive and its negatives; of a batch the query's own images are masked."""
    found = []
    for positive, negatives in seen:
        for own, others in zip(positive, negatives, strict=True):
            found.append(np.concatenate([[own], others[others > -1e300]]))
    # The calls come contrast by contrast and direction by direction, the reference's terms image by image: compared as sets.
    assert len(found) == len(terms)
    for row in expected:
        gaps = [np.abs(np.sort(row[1:]) - np.sort(f[1:])).max() if len(row) == len(f) else 1 for f in found]
        best = int(np.argmin([gap + abs(f[0] - row[0]) for gap, f in zip(gaps, found, strict=True)]))
        close(found[best][0], row[0], "positive logit")
        close(np.sort(found[best][1:]), np.sort(row[1:]), "negative logits")
        found.pop(best)


def run_both(config, size, seen, *, repeated=False):
    """STEPS steps of the method, each compared with the reference, which carries its own memories and key weights."""
    method, momentum = build(config), 0.9
    optimizer = torch.optim.SGD(method.trained.parameters(), lr=0.05, momentum=0.9)
    memories = {tower: memory.features.numpy().copy() for tower, memory in method.memories.items()}
    key_weights = {tower: dict(network.named_parameters()) for tower, network in method.key_networks.items()}
    key_weights = {tower: {n: v.detach().numpy().copy() for n, v in own.items()} for tower, own in key_weights.items()}
    pointer = 0
    num_rows = len(next(iter(memories.values()))) if memories else 0
    num_jigsaw = max(1, round(config.jigsaw_fraction * size))
    for step in range(STEPS):
        batch = batch_of(size, step=step, index=[5, 1, 5, *range(7, 4 + size)] if repeated else None)
        index = batch.index.tolist()
        rows = rows_by_hand(method, batch, num_jigsaw)
        rows |= {("memory", t, i): row for t, memory in memories.items() for i, row in enumerate(memory)}
        terms = reference.terms_of(config, index, num_jigsaw, rows_of_memory=num_rows, seed=SEED, step=step)
        weight = sum(term.weight for term in config.contrasts)
        expected = reference.evaluate(terms, rows, temperature=config.temperature, weight=weight)

        embedded = {}

        def forward(*inputs, keep=embedded):
            keep.update(method.trained(*inputs))
            for views in keep.values():
                for view in views:
                    for embedding in (view.instance, view.jigsaw):
                        if embedding is not None:
                            embedding.retain_grad()
            return keep

        seen.clear()
        output = method.step(batch, forward=forward, ranks=Ranks(), step=step)
        optimizer.zero_grad()
        output.loss.backward()
        close(output.loss.item(), expected.loss, "loss")
        compare_logits(seen, terms, expected.logits)
        for name, value in expected.figures.items():
            close(output.figures[name].item(), value, name)
        for tower, views in embedded.items():
            gradients = torch.cat([view.instance.grad for view in views]).split(size)  # one a view
            named = {("view", tower, v, i): row for v, rows_ in enumerate(gradients) for i, row in enumerate(rows_)}
            if config.jigsaw:
                named |= {("jigsaw", tower, image): row for image, row in enumerate(views[0].jigsaw.grad)}
            for row, gradient in named.items():
                close(gradient, expected.gradients[row], f"gradient of {row}")
        optimizer.step()
        method.after_step([output], ranks=Ranks(), momentum=momentum)
        for tower, network in method.key_networks.items():
            source = dict(method.query_networks[tower].named_parameters())
            for name, own in key_weights[tower].items():
                own[...] = momentum * own + (1 - momentum) * source[name].detach().numpy()
                close(dict(network.named_parameters())[name].detach(), own, f"key network's {name}")
        for tower, memory in method.memories.items():
            if config.memory == "queue":
                keys = [rows[("key", tower, view, i)] for i in range(size) for _, view in reference.directions(config)]
                memories[tower], after = reference.enqueue(memories[tower], pointer, keys)
                assert int(memory.pointer) == after
            else:
                own = [rows[("view", tower, 0, image)] for image in range(size)]
                memories[tower] = reference.move_bank(memories[tower], index, own, config.bank_momentum)
            close(memory.features, memories[tower], f"memory of {tower} after step {step}")
        if config.memory == "queue":
            pointer = after
    assert config.memory != "queue" or STEPS * size > config.queue_size + size  # the ring went round


@pytest.mark.parametrize("jigsaw", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_its_slow_reference(name, jigsaw, logits):
    """With and without the jigsaw branch: all eight combinations of modality, memory and jigsaw, and in-batch negatives."""
    run_both(preset(name, jigsaw=jigsaw), 4, logits)


@pytest.mark.parametrize("size", [2, 6, 7])
@pytest.mark.parametrize("name", ["infomin", "cmc", "cmc_v2", "simclr"])
def test_batches_of_any_size_are_the_reference_s(name, size, logits):
    over = {"queue_size": 2 * size - 1, "jigsaw_fraction": 0.5, "jigsaw_weight": 0.3, "head": "mlp"}
    run_both(preset(name, jigsaw=True, **over), size, logits)


@pytest.mark.parametrize("name", ["moco_v1", "infomin", "cmc_v2"])
def test_the_symmetric_loss_is_the_reference_s(name, logits):
    run_both(preset(name, symmetric=True, queue_size=17), 6, logits)


@pytest.mark.parametrize("towers", ["RGB", "Y and DbDr"])
@pytest.mark.parametrize("memory", ["queue", "bank", "batch"])
def test_weights_of_contrasts_count_in_every_memory(towers, memory, logits):
    contrasts = [("RGB", "RGB", 0.7)] if towers == "RGB" else [("Y", "DbDr", 0.5), ("DbDr", "Y", 2.0), ("Y", "Y", 0.25)]
    plain = [{"query": query, "key": key, "weight": weight} for query, key, weight in contrasts]
    names = ["RGB"] if towers == "RGB" else ["Y", "DbDr"]
    run_both(preset("infomin", towers=names, contrasts=plain, memory=memory, jigsaw_fraction=0.6), 5, logits)


@pytest.mark.parametrize("name", ["instdis", "cmc", "simclr"])
def test_an_image_twice_in_a_batch_is_the_reference_s(name, logits):
    run_both(preset(name), 5, logits, repeated=True)


def without_unit_length(patch):
    patch.setattr(memory_module, "F", types.SimpleNamespace(normalize=lambda rows, dim: rows))


def keys_reversed(patch):
    enqueue = memory_module.FeatureQueue.enqueue
    patch.setattr(
        memory_module.FeatureQueue, "enqueue", lambda self, keys, sound=None: enqueue(self, keys.flip(0), sound=sound)
    )


def no_gradient_to_the_other_view(patch):
    honest = contrast.batch_nce
    patch.setattr(contrast, "batch_nce", lambda *, key, **rest: honest(key=key.detach(), **rest))


def jigsaw_of_the_other_half(patch):
    honest = contrast.bank_nce
    patch.setattr(
        contrast,
        "bank_nce",
        lambda *, query, index, **rest: honest(query=query, index=index if len(query) == 4 else index + 1, **rest),
    )


def weights_averaged(patch):
    honest = contrast.mean_output
    patch.setattr(contrast, "mean_output", lambda outputs, weights=None: honest(outputs))


FAULTS = {
    "bank rows are left as long as they come": ("instdis", without_unit_length, "memory of RGB after step 0"),
    "keys enter the queue in another order": ("moco_v2", keys_reversed, "memory of RGB after step 0"),
    "the other view gets no gradient": ("simclr", no_gradient_to_the_other_view, "gradient of"),
    "jigsaw embeddings meet another image's row": ("pirl", jigsaw_of_the_other_half, "loss"),
    "weights of the contrasts are forgotten": ("cmc", weights_averaged, "loss"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_control_a_method_with_one_fault_is_found(fault, logits, monkeypatch):
    name, plant, message = FAULTS[fault]
    contrasts = [{"query": "Y", "key": "DbDr", "weight": 0.5}, {"query": "DbDr", "key": "Y", "weight": 2.0}]
    over = {"contrasts": contrasts} if name == "cmc" else {"jigsaw_fraction": 0.5}
    run_both(preset(name, **over), 4, logits)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=message):
        run_both(preset(name, **over), 4, logits)


@pytest.mark.parametrize("name", ["infomin", "cmc", "simclr"])
def test_gradients_of_the_weights_are_finite_differences_of_the_reference_s_loss(name):
    config = preset(name, jigsaw=True)
    method, batch = build(config), batch_of(4, step=0)

    def loss_of_reference():
        rows = rows_by_hand(method, batch, 4)
        rows |= {("memory", t, i): row for t, m in method.memories.items() for i, row in enumerate(m.features.numpy())}
        size = NUM_IMAGES if config.memory == "bank" else config.queue_size
        terms = reference.terms_of(config, batch.index.tolist(), 4, rows_of_memory=size, seed=SEED, step=0)
        return reference.evaluate(terms, rows, temperature=config.temperature, weight=1).loss

    method.step(batch, forward=method.trained, ranks=Ranks(), step=0).loss.backward()
    rng, step = np.random.default_rng(0), 1e-5
    for _, parameter in method.trained.named_parameters():
        place = int(rng.integers(parameter.numel()))
        flat = parameter.data.view(-1)
        before = flat[place].item()
        values = []
        for moved in (before + step, before - step):
            flat[place] = moved
            values.append(loss_of_reference())
        flat[place] = before
        slope = (values[0] - values[1]) / (2 * step)
        assert parameter.grad.view(-1)[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["instdis", "cmc", "cmc_v2", "moco_v2"])
def test_micro_batches_are_remembered_as_their_whole_batch_would_be_and_keys_move_once(name):
    config = preset(name, symmetric=name == "moco_v2", queue_size=17)
    batch = batch_of(6, step=0)

    def remembered(parts, *, at_once=True):
        method = build(config).eval()  # BatchNorm does not depend on the parts
        with torch.no_grad():  # so that the key network has somewhere to go
            for parameter in method.trained.parameters():
                parameter.add_(0.1)
        outputs = [
            method.step(part, forward=method.trained, ranks=Ranks(), step=step) for step, part in enumerate(parts)
        ]
        for together in [outputs] if at_once else [[output] for output in outputs]:
            method.after_step(together, ranks=Ranks(), momentum=0.9)
        return method.state_dict()

    whole, parts = remembered([batch]), remembered(batch.split(3))
    assert all(torch.allclose(whole[entry], parts[entry], rtol=0, atol=1e-12) for entry in whole)
    if config.memory == "queue":  # control: a published library's fault
        apart = remembered(batch.split(3), at_once=False)
        assert not all(torch.allclose(whole[entry], apart[entry], rtol=0, atol=1e-12) for entry in whole)
