"""Ten steps of training written out by hand, which the real loop must take too.

Only the encoder, the heads and the view batches are the project's. Optimiser, schedule, BatchNorm groups, shuffled keys, loss,
key update and queue are plain tensor arithmetic here, from docs/specification.md 1.2 to 1.5. Each control changes one rule of them and must
make the comparison fail.
"""

from __future__ import annotations

import json
import math
import types

import pytest
import torch
import torch.nn.functional as F
import yaml

from tests.golden import record

STEPS, STEPS_PER_EPOCH, BATCH = 10, 2, 8
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's
# Where both sum in the same order, as below, all ten steps are equal to the last bit. The tolerances are for a loop that sums in
# another: ten steps of so small a network blow a difference of 1e-7 up to 0.1 of the loss, so they cannot be wide.
LOSS_TOLERANCE, STATE_TOLERANCE = 2e-6, 2e-6
ENCODER, FEATURES = "resnet18_half", 256
RUN = {
    "seed": 3,
    "encoder": {"arch": ENCODER},
    "method": {"queue_size": 20, "momentum": 0.9, "batchnorm_images": 4, "feature_dim": 32},
    "views": {"image_size": 32, "patch_size": 16, "blur_kernel": 5},
    "optimizer": {
        "batch_size": BATCH,
        "epochs": STEPS // STEPS_PER_EPOCH,
        "learning_rate": 0.02,
        "weight_decay": 0.01,
        "momentum": 0.8,
        "warmup_epochs": 2,
        "warmup_start": 0.005,
    },
    "runtime": {"device": "cpu", "precision": "fp32", "log_every_steps": 1, "channels_last": False},
}
CASES = {
    "infomin": {"name": "infomin", "jigsaw_weight": 0.3},
    "infomin with jigsaw for half of the images": {"name": "infomin", "jigsaw_fraction": 0.5, "jigsaw_weight": 0.3},
    "moco_v2": {"name": "moco_v2"},
}


def rate_at(step, rule):
    """Warm-up: a straight line to what the cosine says at the last warm-up epoch. Then the cosine, once an epoch from 1."""
    settings = RUN["optimizer"]
    base, epochs, warmup = settings["learning_rate"], settings["epochs"], settings["warmup_epochs"]
    floor = base / 1000

    def cosine(epoch):
        return floor + (base - floor) * (1 + math.cos(math.pi * epoch / epochs)) / 2

    if rule == "epochs counted from 0" and step >= warmup * STEPS_PER_EPOCH:
        return cosine(step // STEPS_PER_EPOCH)
    if step < warmup * STEPS_PER_EPOCH and rule != "no warm-up":
        start = settings["warmup_start"]
        return start + (cosine(warmup) - start) * step / (warmup * STEPS_PER_EPOCH)
    return cosine(step // STEPS_PER_EPOCH + 1)


def grouped_forward(layer, rows):
    """BatchNorm of each half of the rows on its own; after both, the old running value has kept the weight 0.9."""
    layer.num_batches_tracked += 1
    halves = rows.chunk(2)
    share = 1 - 0.9**0.5
    done = []
    for half in halves:
        done.append(
            F.batch_norm(half, layer.running_mean, layer.running_var, layer.weight, layer.bias, True, share, 1e-5)
        )
    return torch.cat(done)


def networks(method, state):
    """The query's encoder, head and jigsaw head and the key's encoder and head, holding the initial `state`."""
    heads, encoder = record.module("heads"), record.module("encoder").ResNetEncoder
    dim = RUN["method"]["feature_dim"]
    parts = {
        "query.encoder": encoder(ENCODER),
        "query.head": heads.ProjectionHead("mlp", FEATURES, dim),
        "key.encoder": encoder(ENCODER),
        "key.head": heads.ProjectionHead("mlp", FEATURES, dim),
    }
    if method["name"] == "infomin":
        parts["query.jigsaw_head"] = heads.JigsawHead("mlp", FEATURES, dim)
    for name, part in parts.items():
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        part.load_state_dict(own)
        for layer in part.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.forward = types.MethodType(grouped_forward, layer)
    return parts


def pixels(images):
    """uint8 (..., 3, H, W) -> normalised float32."""
    return (images.float() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def info_nce(query, keys, queue, temperature):
    """Cross-entropy of the positive among the negatives, in the loop's order of sums; checked against the plain form."""
    scaled = query / temperature
    positive, negatives = (scaled * keys).sum(dim=1), scaled @ queue.T
    loss = F.softplus(negatives.logsumexp(dim=1) - positive).mean()
    logits = torch.cat([(query * keys).sum(1, keepdim=True), query @ queue.T], dim=1) / temperature
    plain = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))  # the positive is class 0
    assert torch.isclose(loss, plain, rtol=1e-5, atol=1e-6)
    return loss


def by_hand(method, state, batches, rule=""):
    """(losses, rates, final state) of the steps. rule: the one thing that is done differently."""
    parts = networks(method, state)
    queue, pointer = state["memory.features"].clone(), 0
    settings = RUN["optimizer"]
    temperature = 0.15 if method["name"] == "infomin" else 0.2
    beta = 0.7 if rule == "jigsaw weights exchanged" else 0.3
    names = {
        f"{part}.{name}": parameter for part, network in parts.items() for name, parameter in network.named_parameters()
    }
    query = {name: parameter for name, parameter in names.items() if name.startswith("query.")}
    velocity = {}
    losses, rates = [], []

    def move_key():
        with torch.no_grad():
            for name, parameter in names.items():
                if name.startswith("key."):
                    source = names["query." + name.removeprefix("key.")]
                    parameter.lerp_(source, 1 - 0.9)  # 0.9 key + 0.1 query

    for step, batch in enumerate(batches):
        embedded = parts["query.head"](parts["query.encoder"](pixels(batch.images[:, 0])))
        jigsaw = None
        if method["name"] == "infomin":
            count = round(method.get("jigsaw_fraction", 1.0) * BATCH)
            features = parts["query.encoder"](pixels(batch.patches[:count].reshape(-1, 3, 16, 16)))
            jigsaw = parts["query.jigsaw_head"](features, permutation=batch.permutation[:count])
        with torch.no_grad():  # shuffled, so that its BatchNorm groups are others than the query's
            generator = torch.Generator().manual_seed(RUN["seed"] * 1_000_003 + step)
            order = torch.randperm(BATCH, generator=generator)
            if rule == "keys not shuffled":
                order = torch.arange(BATCH)
            shuffled = parts["key.head"](parts["key.encoder"](pixels(batch.images[order, 1])))
            keys = torch.empty_like(shuffled)
            keys[order] = shuffled
        if rule == "queue filled before the loss":
            queue[(pointer + torch.arange(BATCH)) % len(queue)] = keys
        loss = info_nce(embedded, keys, queue, temperature)
        if jigsaw is not None:
            loss = (1 - beta) * loss + beta * info_nce(jigsaw, keys[:count], queue, temperature)
        gradients = dict(zip(query, torch.autograd.grad(loss, list(query.values())), strict=True))
        rate = rate_at(step, rule)
        if rule == "key moved before the optimiser":
            move_key()
        with torch.no_grad():
            for name, parameter in query.items():
                decayed = gradients[name]
                if not (rule == "no weight decay of vectors" and parameter.dim() == 1):
                    decayed = decayed.add(parameter, alpha=settings["weight_decay"])
                velocity[name] = velocity[name].mul(settings["momentum"]).add(decayed) if step else decayed.clone()
                parameter.add_(velocity[name], alpha=-rate)
        if rule != "key moved before the optimiser":
            move_key()
        rows = (pointer + torch.arange(BATCH)) % len(queue)
        queue[rows] = keys.flip(0) if rule == "queue in another order" else keys
        pointer = (pointer + BATCH) % (16 if rule == "ring cut to whole batches" else len(queue))
        losses.append(loss.item())
        rates.append(rate)
    final = {f"{part}.{name}": value for part, network in parts.items() for name, value in network.state_dict().items()}
    return losses, rates, {**final, "memory.features": queue, "memory.pointer": torch.tensor(pointer)}


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    with record.one_thread():
        yield


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Function: case -> (method, initial state, batches, losses, rates, final state) of tools/pretrain.py, once a case."""
    folder = tmp_path_factory.mktemp("trajectory")
    images = record.write_images(folder / "images", record.SMALL_SIZES)
    done = {}

    def run(case):
        if case not in done:
            done[case] = real_run(CASES[case], images, folder / case.replace(" ", "_"))
        return done[case]

    return run


def real_run(method, images, folder):
    path = folder.with_suffix(".yaml")
    changed = {key: value for key, value in method.items() if key != "name"}
    values = {"base": record.method_file(method["name"]), **RUN, "method": {**RUN["method"], **changed}}
    values["data"] = {"root": str(images), "num_workers": 0}
    path.write_text(yaml.safe_dump(values))
    config = record.module("run configuration").load_run_config(path)
    start = record.module("methods").build_method(
        encoder=config.encoder,
        config=config.method,
        contract=record.module("contract").InputContract(),
        seed=config.seed,
        batchnorm_groups=2,
    )
    state = {name: value.clone() for name, value in start.state_dict().items()}
    stream = record.module("stream").open_stream(
        config, ranks=record.module("ranks").Ranks(), announce=lambda text: None
    )
    batches = list(stream.batches(from_step=0, num_steps=STEPS))
    record.run_tool("pretrain", "--config-file", str(path), "--output-dir", str(folder))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    final = torch.load(folder / "checkpoints" / f"step_{STEPS:08d}.pt", weights_only=True)["model"]
    return method, state, batches, [e["loss"] for e in log], [e["learning_rate"] for e in log], final


def differences(real_losses, real_rates, real_state, losses, rates, state):
    """What is not equal within the tolerances, as text, in the order of the steps."""
    found = [
        f"rate of step {step}: {a} in the loop, {b} by hand"
        for step, (a, b) in enumerate(zip(real_rates, rates, strict=True), 1)
        if not math.isclose(a, b, rel_tol=1e-12)
    ]
    found += [
        f"loss of step {step}: {a} in the loop, {b} by hand"
        for step, (a, b) in enumerate(zip(real_losses, losses, strict=True), 1)
        if not abs(a - b) < LOSS_TOLERANCE
    ]
    assert set(real_state) == set(state)
    for name, value in real_state.items():
        gap = (value.double() - state[name].double()).abs().max().item()
        if not gap < STATE_TOLERANCE:
            found.append(f"{name} after step {STEPS}: differs by up to {gap:.3g}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_loop_takes_the_steps_written_out_by_hand(real, case):
    method, start, batches, losses, rates, final = real(case)
    found = differences(losses, rates, final, *by_hand(method, start, batches))
    assert not found, "\n".join(found)
    assert int(final["memory.pointer"]) == STEPS * BATCH % 20 and STEPS * BATCH > 3 * 20  # the ring went round


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        "epochs counted from 0",
        "no warm-up",
        "key moved before the optimiser",
        "queue in another order",
        "queue filled before the loss",
        "ring cut to whole batches",
        "keys not shuffled",
        "jigsaw weights exchanged",
        "no weight decay of vectors",
    ],
)
def test_control_a_step_with_one_rule_changed_is_found(real, rule):
    method, start, batches, losses, rates, final = real("infomin with jigsaw for half of the images")
    changed_losses, changed_rates, state = by_hand(method, start, batches, rule)
    # Without the rates: a wrong schedule must show in what it does.
    assert differences(losses, rates, final, changed_losses, rates, state)
    if rule in ("epochs counted from 0", "no warm-up"):
        assert changed_rates != rates
