"""The table of targets: complete, true to the libraries it names, and clear about what a target cannot express."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.base.architecture import ARCHITECTURES, Architecture
from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from tests.transfer.conversion.backbones import BGR, backbone_of
from transfer.conversion import targets
from transfer.conversion.targets import DEFAULT_TARGET, SHARED_NAMES, TARGETS, check_expressible, target_named

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["detectron2", "pkl", "torchvision", "timm", "huggingface", "onnx"]


def test_every_target_of_the_table_is_found_by_name_and_another_is_not():
    assert [target.name for target in TARGETS] == NAMES and DEFAULT_TARGET in NAMES
    assert all(target_named(target.name) is target for target in TARGETS)
    with pytest.raises(ConfigError, match=f"--to expected one of {', '.join(NAMES)}, found 'tf'"):
        target_named("tf")


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_an_entry_is_a_file_or_a_folder_and_its_usage_can_be_printed(target):
    assert bool(target.suffix) != bool(target.files)
    assert "out/w" in target.usage.format(output="out/w", arch="resnet50")
    assert target.weights_path(Path("w")) == (Path("w") / "model.safetensors" if target.files else Path("w"))


def test_the_shared_names_are_torchvisions_and_timms():
    import timm
    import torchvision

    assert set(torchvision.models.list_models()) >= SHARED_NAMES
    assert all(timm.is_model(name) for name in SHARED_NAMES)
    assert not timm.is_model("resnet50w2")  # the control


@pytest.mark.parametrize(
    ("contract", "able"),
    [
        (InputContract(), NAMES),
        (BGR, ["detectron2", "pkl", "torchvision", "onnx"]),
        (InputContract(stride_in_1x1=True), ["detectron2", "pkl", "huggingface", "onnx"]),
        (InputContract(bn_eps=1e-3), ["onnx"]),
        (InputContract(stem="deep"), []),
    ],
)
def test_what_a_contract_needs_decides_which_targets_can(contract, able):
    backbone = backbone_of("resnet50", contract=contract)
    for target in TARGETS:
        if target.name in able:
            check_expressible(target, backbone)
        else:
            hint = f"pass --to {' or '.join(able)}" if able else "cannot say"
            with pytest.raises(ConfigError, match=re.escape(hint)):
                check_expressible(target, backbone)


def test_a_basic_block_has_no_stride_to_place():
    backbone = backbone_of("resnet18", contract=InputContract(stride_in_1x1=True))
    assert all(target.finding(backbone.arch, backbone.contract) is None for target in TARGETS)


@pytest.mark.parametrize(
    ("arch", "able"),
    [
        ("wide_resnet50_2", ["detectron2", "pkl", "torchvision", "timm", "onnx"]),
        ("resnext50_32x4d", ["detectron2", "pkl", "torchvision", "timm", "onnx"]),
        ("resnext152_32x8d", ["detectron2", "pkl", "onnx"]),
    ],
)
def test_an_architecture_that_a_target_does_not_have_names_those_that_do(monkeypatch, arch, able):
    groups, width = {"wide_resnet50_2": (1, 128), "resnext50_32x4d": (32, 4), "resnext152_32x8d": (32, 8)}[arch]
    spec = Architecture(bottleneck=True, layers=(3, 4, 6, 3), groups=groups, width_per_group=width)
    monkeypatch.setitem(ARCHITECTURES, arch, spec)
    backbone = dataclasses.replace(backbone_of(), arch=arch)
    with pytest.raises(ConfigError, match=f"huggingface has no {arch}; pass --to {' or '.join(able)}"):
        check_expressible(target_named("huggingface"), backbone)
    assert [target.name for target in TARGETS if target.finding(arch, backbone.contract) is None] == able


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_a_missing_library_is_named_with_what_to_run(monkeypatch, target):
    target.require()  # the control: they are here

    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(targets.importlib, "import_module", absent)
    with pytest.raises(
        ConfigError, match=rf"--to {target.name} needs {target.libraries[0]}.*-r requirements/export\.txt"
    ):
        target.require()


@pytest.mark.slow
def test_the_table_alone_imports_none_of_the_libraries():
    code = "import sys, transfer.conversion.targets; print(sorted({'timm', 'transformers', 'onnx', 'onnxruntime', 'detectron2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_every_optional_library_is_pinned():
    pins = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements" / "export.txt").read_text(), re.M))
    assert pins == {"timm", "transformers", "onnx", "onnxruntime", "onnxscript"}
    named = {library for target in TARGETS for library in target.libraries} - {"detectron2", "torchvision"}
    assert named == pins
