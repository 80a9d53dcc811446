"""Every layout of the table is recognised by content, as itself and as nothing else, wrapped or not, whole or not at all."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError
from tests.cases import each
from tests.transfer.conversion.backbones import taken
from tests.transfer.conversion.checkpoints import (
    MAKERS,
    TWO_BRANCHES,
    deep_copy,
    moco_v2,
    prefixed,
    save,
    stable_pretraining,
)
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.containers import file_view
from transfer.conversion.layouts import AUTOMATIC, FAIR_BGR, LAYOUTS, MSRA_BGR, Branch, Layout
from transfer.conversion.names import NAMINGS
from transfer.conversion.sources import load_backbone, matches

pytestmark = pytest.mark.usefixtures("tiny_architectures")
PATH = Path("misleading_name_moco_v2.pth")  # the name plays no part
FILES = [(name, maker) for name, makers in MAKERS.items() for maker in makers]


def of_each(files):
    """One test of all the files: hundreds of cases would take longer than what they do. A failure names its file."""

    def decorate(check):
        def test():
            for name, maker in files:
                try:
                    check(name, maker)
                except (Exception, pytest.fail.Exception) as error:
                    raise AssertionError(f"{name}-{maker.__name__}: {error}") from error

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


# haiku's and the SimCLR port's blocks all have a shortcut in the first of a stage, as bottlenecks do: no ResNet-18 of theirs.
BOTTLENECK_ONLY = ("byol-deepmind", "simclr-port")


def arch_of(name):
    return "tiny50" if name in BOTTLENECK_ONLY else "tiny18"


def made(name, maker):
    """A file's content; its tensors are shared between tests and must not be changed in place."""
    return maker(tiny_state(arch_of(name), 0), tiny_state(arch_of(name), 1))


def test_every_layout_has_a_maker_and_an_entry_of_its_own():
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)
    # test_convert.py makes the first, test_towers.py the second, test_fitting.py the third, test_source_contracts.py the other two.
    assert set(MAKERS) == set(names) - {
        "infomin-transfer-converted",
        "infomin-transfer-towers",
        "pycontrast-cmc",
        "simclr-v1",
        "detectron2-detector",
    }


def test_every_entry_is_well_formed():
    for layout in LAYOUTS:
        for pattern in (*layout.markers, *layout.absent, *layout.extra):
            re.compile(pattern)
        assert layout.source and layout.description and layout.markers
        assert layout.naming in NAMINGS and layout.branches and layout.companion in (None, "timm", "huggingface")
        assert all(branch.prefix == "" or branch.prefix.endswith(".") for branch in layout.branches.values())


def test_a_layout_has_one_container_or_none():
    one = Layout("x", "", "", (), {"a": Branch("a.", ("m",)), "b": Branch("b.", ("m",))})
    two = Layout("x", "", "", (), {"a": Branch("", ("m",)), "b": Branch("", ("n",))})
    apart = Layout("x", "", "", (), {"a": Branch("", ("m",), state=("n",))})
    assert (one.container, two.container, apart.container) == (("m",), None, None)


def test_bgr_contracts_are_round_figures_in_detectron2_s_units():
    assert [round(255 * value, 6) for value in MSRA_BGR.mean] == [103.53, 116.28, 123.675]
    assert [round(255 * value, 6) for value in MSRA_BGR.std] == [1.0, 1.0, 1.0]
    assert [round(255 * value, 6) for value in FAIR_BGR.std] == [57.375, 57.12, 58.395] and not FAIR_BGR.stride_in_1x1


@of_each(FILES)
def test_a_file_fits_its_layout_and_no_other(name, maker):
    view = file_view(made(name, maker), PATH)
    fitting = [layout.name for layout in AUTOMATIC if matches(layout, view)]
    assert fitting == ([] if maker.__name__ == "moco_lincls" else [name])  # that one is torchvision's in an envelope


@of_each(FILES)
def test_each_branch_gives_exactly_its_own_tensors(name, maker):
    content = made(name, maker)
    found = taken(content, PATH)
    assert (found.layout, found.arch, found.branch) == (name, arch_of(name), found.branches[0])
    assert len(found.branches) == (2 if maker in TWO_BRANCHES else 1)
    for index, branch in enumerate(found.branches):
        tensors = taken(content, PATH, branch=branch).tensors
        wanted = tiny_state(arch_of(name), index)
        assert len(tensors) == {"tiny18": 100, "tiny50": 265}[found.arch]
        bare = maker.__name__ == "caffe2"  # no statistics in the file: the identity takes their place
        for tensor in tensors:
            if bare and tensor.endswith("running_mean"):
                assert not tensors[tensor].any()
            elif bare and tensor.endswith("running_var"):
                assert torch.equal(tensors[tensor] + 1e-5, torch.ones_like(tensors[tensor]))
            else:
                assert torch.equal(tensors[tensor], wanted[tensor]), (branch, tensor)


# One of every kind of file that the readers tell apart; which layout is in it makes no difference to them.
@pytest.mark.parametrize("name", ["moco", "caffe2", "byol-deepmind"])
def test_a_file_on_disk_gives_what_its_content_does(tmp_path, name):
    content = made(name, MAKERS[name][0])
    found, known = load_backbone(save(content, tmp_path, layout=name)), taken(content, PATH)
    assert (found.layout, found.arch, found.branches) == (known.layout, known.arch, known.branches)
    assert found.tensors.keys() == known.tensors.keys()
    assert all(torch.equal(found.tensors[tensor], known.tensors[tensor]) for tensor in known.tensors)


def renamed(content, change):
    """`content` with every name of a tensor changed, in every dictionary that holds some."""
    if not isinstance(content, dict):
        return content
    return {
        change(key) if isinstance(value, torch.Tensor) else key: renamed(value, change)
        for key, value in content.items()
    }


def inside_every_block(name):
    return name.replace(".0.conv1", ".0._fsdp_wrapped_module.conv1").replace(
        ".1.bn", ".1._checkpoint_wrapped_module.bn"
    )


ENVELOPES = {
    "checkpoint": lambda content: {"checkpoint": content, "epoch": 3},
    "ema": lambda content: {"ema": content, "decay": 0.99},
}
FLAT_NAMES = ("byol-deepmind", "caffe2")  # haiku's and caffe2's are no torch modules: nothing of torch can wrap them


@of_each(FILES)
def test_wrapped_names_in_two_dictionaries_are_seen_through(name, maker):
    content = made(name, maker)
    if name not in FLAT_NAMES:
        content = renamed(content, lambda key: f"module._orig_mod.{inside_every_block(key.removeprefix('module.'))}")
    found = taken({"net": {"weights": content}}, PATH)
    assert found.layout == name and torch.equal(found.tensors["bn1.weight"], tiny_state(arch_of(name), 0)["bn1.weight"])


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
def test_other_envelopes_are_seen_through(envelope):
    found = taken(envelope(made("moco", moco_v2)), PATH)
    assert found.layout == "moco" and torch.equal(found.tensors["bn1.weight"], tiny_state()["bn1.weight"])


ONE_CONTAINER = [
    (n, m) for n, m in FILES if n not in (*FLAT_NAMES, "pycontrast", "dino", "infomin-transfer") and "detect" not in n
]


def tensors_of(content):
    """The dictionary of a file that holds the most tensors."""
    inner = [tensors_of(value) for value in content.values() if isinstance(value, dict)]
    here = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return max([here, *inner], key=len)


OUTER = {
    "Lightning": lambda state: {"state_dict": prefixed(state, "model."), "pytorch-lightning_version": "2.4"},
    "Lightning of compile": lambda state: {"state_dict": prefixed(state, "model._orig_mod."), "loops": {}},
    "AveragedModel": lambda state: {**prefixed(state, "module."), "n_averaged": torch.tensor(3)},
    "EMA container": lambda state: {"state_dict_ema": prefixed(state, "module."), "epoch": 3},
    "ema-pytorch": lambda state: {
        **prefixed(state, "ema_model."),
        "initted": torch.tensor(True),
        "step": torch.tensor(5),
    },
    "bare": lambda state: dict(state),
}


@of_each(ONE_CONTAINER)
def test_lightning_is_seen_through(name, maker):
    found = taken(OUTER["Lightning of compile"](tensors_of(made(name, maker))), PATH)
    # An extracted file is known by its author alone.
    assert found.layout == ("torchvision" if name == "mmselfsup-extracted" else name)
    assert torch.equal(found.tensors["bn1.weight"], tiny_state(arch_of(name), 0)["bn1.weight"])


@each("outer", OUTER.values())
def test_moving_averages_and_bare_states_are_seen_through(outer):
    found = taken(outer(tensors_of(made("moco", moco_v2))), PATH)
    assert found.layout == "moco" and torch.equal(found.tensors["bn1.weight"], tiny_state()["bn1.weight"])


def test_weights_and_their_moving_average_are_two_branches():
    live, averaged = tiny_state("tiny18", 0), tiny_state("tiny18", 1)
    content = {"state_dict": prefixed(live, "module."), "state_dict_ema": averaged, "epoch": 5}
    found = taken(content, PATH)
    assert (found.layout, found.branches) == ("torchvision", ("backbone", "state_dict_ema/backbone"))
    assert torch.equal(found.tensors["conv1.weight"], live["conv1.weight"])
    other = taken(content, PATH, branch="state_dict_ema/backbone")
    assert torch.equal(other.tensors["conv1.weight"], averaged["conv1.weight"])


def places(content, tensor):
    """Every (dictionary, key) inside `content` that holds the values of `tensor`, in any layout of memory."""
    for key, value in list(content.items()):
        if isinstance(value, dict):
            yield from places(value, tensor)
        elif isinstance(value, torch.Tensor) and _same_values(value, tensor):
            yield content, key


def _same_values(a, b):
    return a.numel() == b.numel() and torch.equal(a.flatten().sort().values, b.flatten().sort().values)


def spoil(name, maker, tensor_name, change):
    """A file in which one tensor of the default branch (every copy of it) is changed; None drops it."""
    content = deep_copy(made(name, maker))
    found = list(places(content, tiny_state(arch_of(name), 0)[tensor_name]))
    assert found
    for dictionary, key in found:
        value = change(dictionary[key])
        if value is None:
            del dictionary[key]
        else:
            dictionary[key] = value
    return content


def with_nan(tensor):
    broken = tensor.clone()
    broken.view(-1)[0] = float("nan")
    return broken


@of_each(FILES)
def test_a_dropped_tensor_is_refused_and_named(name, maker):
    with pytest.raises(CheckpointError, match=r"1 missing: layer3\.1\.bn2\.weight"):
        taken(spoil(name, maker, "layer3.1.bn2.weight", lambda tensor: None), PATH)


DAMAGES = {
    "dropped stem": ("bn1.weight", lambda tensor: None, r"1 missing: bn1\.weight"),
    "another shape": (
        "layer3.1.bn2.weight",
        lambda tensor: torch.cat([tensor, tensor], dim=-1),
        r"1 of another shape: layer3\.1\.bn2\.weight \(32,\), expected \(16,\)",
    ),
    "NaN": ("layer3.1.bn2.weight", with_nan, r"NaN or infinity .* layer3\.1\.bn2\.weight"),
}
# One file of every naming: which layout it is makes no difference to these.
NAMED = {layout.naming: layout.name for layout in reversed(LAYOUTS) if layout.name in MAKERS}


@pytest.mark.parametrize("name", NAMED.values())
@pytest.mark.parametrize(("tensor", "change", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_tensor_is_refused_and_named(name, tensor, change, message):
    with pytest.raises(CheckpointError, match=message):
        taken(spoil(name, MAKERS[name][0], tensor, change), PATH)


EXTRA_NAMES = {
    "byol-deepmind": "res_net50/~/block_group_2/~/block_1/~/squeeze",
    "caffe2": "res4_1_branch2e_w",
}


@of_each(FILES)
def test_a_tensor_that_nothing_explains_is_refused_and_named(name, maker):
    content = deep_copy(made(name, maker))
    if name == "byol-deepmind":
        content["experiment_state"]["online_params"][EXTRA_NAMES[name]] = {"w": torch.zeros(3)}
    else:
        for dictionary, key in list(places(content, tiny_state(arch_of(name), 0)["layer3.1.conv2.weight"])):
            block = key.rpartition(".")[0].rpartition(".")[0]
            dictionary[EXTRA_NAMES.get(name, f"{block}.squeeze.weight")] = torch.zeros(3)
    with pytest.raises(CheckpointError, match="1 not of a ResNet: .*(squeeze|res4_1_branch2e_w)"):
        taken(content, PATH)


def library_state(name):
    """A ResNet-18's state as the library itself names it, and the layout that it is."""
    if name == "torchvision":
        return pytest.importorskip("torchvision").models.resnet18(weights=None).state_dict(), "torchvision"
    if name == "timm":
        return pytest.importorskip("timm").create_model("resnet18").state_dict(), "torchvision"
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
    kind = {"ResNetModel": transformers.ResNetModel, "classifier": transformers.ResNetForImageClassification}[name]
    return kind(config).state_dict(), "huggingface"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision", "timm", "ResNetModel", "classifier"])
def test_the_libraries_own_models_are_recognised(name):
    state, layout = library_state(name)
    found = taken(dict(state), PATH)
    assert (found.layout, found.arch, len(found.tensors)) == (layout, "resnet18", 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50d", "resnet18d", "seresnet50", "resnetv2_50", "resnet26", "resnet50_gn"])
def test_timm_s_other_networks_are_refused(name):
    state = pytest.importorskip("timm").create_model(name).state_dict()
    with pytest.raises(CheckpointError, match="Refused|deep stem|squeeze|no running|blocks in its stages|avg-down"):
        taken(dict(state), PATH)


def test_stable_pretraining_s_own_file_holds_omegaconf_objects(tmp_path):
    """Classes of a library that need not be installed, pickled by their names; the reader must neither need nor run them."""
    content = made("stable-pretraining", stable_pretraining)
    with pytest.MonkeyPatch.context() as patch:
        library = types.ModuleType("omegaconf.dictconfig")
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, "omegaconf.dictconfig", library)
        library.DictConfig = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
        config = library.DictConfig()
        config._content = {"lr": 0.1, "method": "moco"}
        torch.save({**content, "hyper_parameters": config}, tmp_path / "last.ckpt")
    found = load_backbone(tmp_path / "last.ckpt")
    assert (found.layout, found.branches) == ("stable-pretraining", ("teacher", "student"))
