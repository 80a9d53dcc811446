"""What a detector starts from: --init read, its keys applied, and whatever contradicts them refused with what to pass."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, UserError
from tests.transfer.conversion.backbones import passed_proof
from transfer.conversion.published import CATALOG as ADDRESSES
from transfer.conversion.sidecar import Sidecar, detectron2_settings
from transfer.conversion.weight_files import file_sha256
from transfer.detect.checks import check_settings, config_value
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.inits import (
    CATALOG,
    CONTRACT_KEYS,
    RANDOM,
    Init,
    apply_detectors_input,
    apply_init,
    family_that_fits,
    parse_init,
    parses_to,
)

FPN, SMALL = "coco/R_50_FPN_1x.yaml", "demo/R_18_FPN.yaml"


@pytest.fixture
def weights(tmp_path: Path):
    """Function: architecture and contract -> a file with a sidecar that describes it as converted weights of that kind."""

    def write(arch: str = "resnet50", contract: InputContract | None = None, **over) -> Path:
        path = tmp_path / f"{arch}.pth"
        torch.save({"model": {"stem.conv1.weight": torch.zeros(2)}, "matching_heuristics": True}, path)
        contract = contract or InputContract()
        sidecar = Sidecar(
            weights_sha256=file_sha256(path),
            arch=arch,
            source={"layout": "infomin-transfer", "branch": "query"},
            contract=contract,
            detectron2=detectron2_settings(arch, contract) | over,
            proof=passed_proof(),
        )
        path.with_suffix(".json").write_text(json.dumps(sidecar.to_dict()))
        return path

    return write


def applied(run: str, init: Init, *words: str):
    """The configuration with the initialisation written in, and what was said."""
    config = load_detector_config(CONFIG_ROOT / run, words)
    return config, apply_init(config, init, frozenset(words[::2]))


def refusal(run: str, init: Init, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        applied(run, init, *words)
    return str(caught.value)


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_nine_keys_of_a_sidecar_hold_after_it_is_applied(weights) -> None:
    unusual = InputContract(channel_order="BGR", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), stride_in_1x1=True)
    path = weights("resnet50", unusual)
    init = parse_init(f"mine={path}")
    assert (init.name, init.weights, init.origin) == ("mine", str(path), "sidecar") and len(init.settings) == 9
    config, notes = applied(FPN, init)
    check_settings(config, init.settings, where="sidecar")
    assert path.as_posix() == config.MODEL.WEIGHTS
    for key in init.settings:
        assert any(key in note for note in notes)  # what is applied is shown, and so is what was compared
    with pytest.raises(ConfigError):
        check_settings(load_detector_config(CONFIG_ROOT / FPN), init.settings, where="the family alone")  # the control


def test_random_weights_take_the_input_of_our_own_and_of_no_other(weights) -> None:
    random, ours = applied(FPN, parse_init("random"))[0], applied(FPN, parse_init(f"mine={weights()}"))[0]
    assert [config_value(random, key) for key in CONTRACT_KEYS] == [config_value(ours, key) for key in CONTRACT_KEYS]
    assert random.MODEL.WEIGHTS == ""
    published = applied(FPN, parse_init("random_bgr"))[0]
    assert published.INPUT.FORMAT == "BGR" and published.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]


def test_random_weights_take_the_input_of_the_weights_that_they_are_like(weights) -> None:
    bgr = parse_init("random=like:msra_r50")
    assert bgr == Init("random", "", RANDOM["random_bgr"].settings, "random") == parse_init("random=random_bgr")
    config, _ = applied(FPN, bgr)
    assert (config.MODEL.WEIGHTS, config.INPUT.FORMAT, config.MODEL.RESNETS.STRIDE_IN_1X1) == ("", "BGR", True)
    assert parse_init(f"scratch=like:{weights()}").settings == RANDOM["random"].settings
    assert parses_to("random=like:gone.pth", bgr) and not parses_to("random=like:gone.pth", CATALOG["msra_r50"])
    caffe2 = parse_init("random=like:fair_x101_32x8d")  # an input of its own
    assert "--init random=like:..." in applied(FPN, caffe2)[1][0]


def test_a_name_of_the_catalog_or_random_takes_the_name_that_is_given() -> None:
    assert parse_init("supervised=msra_r50") == Init(
        "supervised", CATALOG["msra_r50"].weights, CATALOG["msra_r50"].settings, "catalog"
    )
    assert parse_init("msra_r50").name == "msra_r50"
    assert parse_init("seed_only=random") == Init("seed_only", "", RANDOM["random"].settings, "random")
    address = CATALOG["msra_r50"].weights
    assert parse_init(f"a={address}") == Init("a", address, CATALOG["msra_r50"].settings, "catalog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected NAME=FILE"),
        ("rndom", "did you mean --init random?"),
        ("msra_r05", "did you mean --init msra_r50?"),
        ("infomin", "--init infomin=FILE"),  # what named the row only, until the weights came with it
        ("weights/mine.pth", "--init mine=weights/mine.pth"),
        ("mine=", "nothing after the ="),
        ("=w.pth", "expected a name of letters"),
        ("a/b=w.pth", "expected a name of letters"),
        ("random=w.pth", "random is the name of random weights"),
        ("msra_r50=w.pth", "msra_r50 is the name of detectron2://"),
        ("mine=absent.pth", "no weight file at absent.pth"),
        ("mine=msra_r05", "did you mean --init mine=msra_r50"),
        ("mine=https://example.org/w.pth", "nothing here knows which input"),
        ("random=like:absent.pth", "no weight file at absent.pth"),
        ("random_bgr=like:torchvision_r50", "random_bgr is the name of random weights"),
        ("mine=.", "is a folder; of a pre-training run convert"),
    ],
)
def test_a_text_of_no_known_form_says_what_to_type(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_init(text)
    assert message in str(caught.value)


def test_a_file_without_a_sidecar_is_refused_with_the_command_that_converts_it(tmp_path: Path, weights) -> None:
    from tests.transfer.conversion.checkpoints import detectron2_names, encoder_state

    path = tmp_path / "raw.pth"
    torch.save(detectron2_names(encoder_state("resnet18"), encoder_state("resnet18", 1)), path)
    with pytest.raises(
        CheckpointError,
        match=r"`python tools/convert_weights.py .*raw.pth OUTPUT.pth` and pass --init mine=OUTPUT.pth.*--trust.*INPUT.FORMAT",
    ):
        parse_init(f"mine={path}")
    trusted = parse_init(f"mine={path}", trust=True)
    assert trusted.origin == "trusted" and trusted.settings == {}
    said = refusal(SMALL, trusted, "INPUT.FORMAT", "RGB")
    assert "missing are MODEL.PIXEL_MEAN, MODEL.PIXEL_STD, MODEL.RESNETS.STRIDE_IN_1X1" in said
    keys = shlex.split(said.partition("they are: ")[2])  # what it says to pass is taken
    config, notes = applied(SMALL, trusted, *keys)
    assert str(path) == config.MODEL.WEIGHTS and "NOT PROVEN" in notes[0]


def test_weights_that_were_changed_after_their_conversion_are_refused(weights) -> None:
    path = weights()
    parse_init(f"mine={path}")  # the control
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="not the file its sidecar describes"):
        parse_init(f"mine={path}")


def test_what_a_run_was_started_from_is_known_again_when_its_file_is_gone(weights) -> None:
    path = weights()
    init = parse_init(f"mine={path}")
    path.unlink()
    assert (
        parses_to(f"mine={path}", init) and not parses_to(f"other={path}", init) and not parses_to("mine=random", init)
    )
    assert all(parses_to(name, entry) for name, entry in {**RANDOM, **CATALOG}.items())
    assert parses_to("row=msra_r50", parse_init("row=msra_r50")) and not parses_to("random", RANDOM["random_bgr"])


# --- what contradicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", CONTRACT_KEYS)
def test_a_key_of_the_command_line_that_contradicts_is_refused_with_the_line_to_change(weights, key: str) -> None:
    others = {"INPUT.FORMAT": "BGR", "MODEL.RESNETS.STRIDE_IN_1X1": "True"}
    init = parse_init(f"mine={weights()}")
    said = refusal(FPN, init, key, others.get(key, "[1.0, 1.0, 1.0]"))
    (line,) = [line for line in said.splitlines() if "pass: " in line]
    assert f"  {key} is " in line and "resnet50.json" in said
    applied(FPN, init, *shlex.split(line.partition("pass: ")[2]))  # what it says to pass is taken


def test_a_depth_of_the_command_line_that_the_weights_do_not_have_is_to_be_left_out(weights) -> None:
    init = parse_init(f"mine={weights()}")
    said = refusal(FPN, init, "MODEL.RESNETS.DEPTH", "101")
    assert "leave these out" in said and "MODEL.RESNETS.DEPTH is 101, must be 50" in said
    applied("coco/R_18_FPN_1x.yaml", init, "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256")


def test_a_key_that_says_the_same_is_no_contradiction_and_others_stay(weights) -> None:
    words = ("INPUT.FORMAT", "RGB", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]", "SOLVER.BASE_LR", "0.3")
    config, _ = applied(FPN, parse_init(f"mine={weights()}"), *words)
    assert config.SOLVER.BASE_LR == 0.3


def test_weights_that_are_named_twice_must_be_the_same(weights) -> None:
    path = weights()
    init = parse_init(f"mine={path}")
    assert "leave one out" in refusal(FPN, init, "MODEL.WEIGHTS", "other.pth")
    assert "leave one out" in refusal(FPN, parse_init("random"), "MODEL.WEIGHTS", str(path))
    applied(FPN, init, "MODEL.WEIGHTS", str(path))


@pytest.mark.parametrize(
    ("arch", "run", "fits"),
    [
        ("resnet18", FPN, "coco/R_18_FPN_1x.yaml"),
        ("resnet34", "voc/R_50_FPN_24k.yaml", "coco/R_34_FPN_1x.yaml"),
        ("resnet101", "coco/R_50_C4_2x.yaml", "coco/R_101_C4_2x.yaml"),
        ("resnext101_32x8d", "coco/R_101_FPN_2x.yaml", "coco/X_101_FPN_2x.yaml"),
        ("resnext152_32x8d", FPN, "coco/X_152_FPN_1x.yaml"),
        ("resnet50", SMALL, "coco/R_50_FPN_moco_1x.yaml"),
    ],
)
def test_a_family_of_another_network_is_refused_naming_the_one_that_fits(
    weights, arch: str, run: str, fits: str
) -> None:
    init = parse_init(f"mine={weights(arch)}")
    said = refusal(run, init)
    assert f"--config-file {fits}" in said and "must be" in said
    applied(fits, init)  # and it fits


def test_a_network_of_no_family_is_told_the_keys(weights) -> None:
    init = parse_init(f"wide={weights('resnet50w2')}")
    said = refusal(FPN, init)
    assert "no family of transfer/configs builds that network" in said
    applied(FPN, init, *shlex.split(said.rpartition("pass: ")[2]))


# --- the catalog ------------------------------------------------------------------------------------------------------


def test_every_entry_of_the_catalog_is_one_of_the_known_addresses_and_has_its_family() -> None:
    assert {init.weights for init in CATALOG.values()} <= set(ADDRESSES)
    for init in CATALOG.values():
        family = family_that_fits(load_detector_config(CONFIG_ROOT / FPN), init)
        assert family is not None, init.name
        applied(family, init)


@pytest.mark.parametrize("name", [name for name in CATALOG if name.startswith("coco_")])
def test_the_input_of_a_coco_detector_is_that_of_the_model_zoos_own_file(name: str) -> None:
    entry = {
        "coco_r50_fpn_3x": "R_50_FPN", "coco_r101_fpn_3x": "R_101_FPN", "coco_x101_fpn_3x": "X_101_32x8d_FPN",
        "coco_r50_c4_3x": "R_50_C4", "coco_r101_c4_3x": "R_101_C4",
    }[name]  # fmt: skip
    file = f"COCO-InstanceSegmentation/mask_rcnn_{entry}_3x.yaml"
    config = model_zoo.get_config(file)
    check_settings(config, CATALOG[name].settings, where="the catalog")
    address = CATALOG[name].weights.replace("detectron2://", "https://dl.fbaipublicfiles.com/detectron2/")
    assert model_zoo.get_checkpoint_url(file) == address


def test_a_detector_with_a_pyramid_is_not_put_into_one_without() -> None:
    """Its ResNet has other names there: Detectron2 would load none of it."""
    said = refusal("coco/R_50_C4_1x.yaml", CATALOG["coco_r50_fpn_3x"])
    assert "--config-file coco/R_50_FPN_moco_1x.yaml" in said
    assert "MODEL.BACKBONE.NAME" in refusal(FPN, CATALOG["coco_r50_c4_3x"])
    applied("coco/R_50_RetinaNet_1x.yaml", CATALOG["coco_r50_fpn_3x"])


def test_a_trained_detector_is_fed_as_its_own_configuration_says_unless_a_key_is_given(tmp_path: Path) -> None:
    trained, _ = applied(FPN, parse_init("random"))
    (tmp_path / "config.yaml").write_text(trained.dump())
    words = ("MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    config = load_detector_config(CONFIG_ROOT / FPN, words)
    (note,) = apply_detectors_input(config, frozenset(words[::2]))
    assert [config_value(config, key) for key in CONTRACT_KEYS] == [config_value(trained, key) for key in CONTRACT_KEYS]
    assert str(tmp_path / "config.yaml") in note and all(key in note for key in CONTRACT_KEYS)
    given = load_detector_config(CONFIG_ROOT / FPN, (*words, "INPUT.FORMAT", "BGR"))
    apply_detectors_input(given, frozenset({"MODEL.WEIGHTS", "INPUT.FORMAT"}))
    assert given.INPUT.FORMAT == "BGR" and given.MODEL.PIXEL_STD == trained.MODEL.PIXEL_STD  # the loader refuses it
    (tmp_path / "config.yaml").unlink()
    assert apply_detectors_input(load_detector_config(CONFIG_ROOT / FPN, words), frozenset()) == ()
