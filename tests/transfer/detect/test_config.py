"""Configurations: families that say nothing about weights, safe reading, helpful errors, every model built.

That their values are the published ones: tests/golden/test_published_configs.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from pretrain.base.errors import ConfigError
from pretrain.base.shapes_only import shapes_only
from tests.cases import each
from transfer.detect.checks import config_value
from transfer.detect.config import check_supported, load_detector_config, resolve_config, sets_weights
from transfer.detect.config_files import CONFIG_ROOT, resolve_config_path, shipped_runs
from transfer.detect.inits import CONTRACT_KEYS, apply_init, parse_init

RUNS = [path.relative_to(CONFIG_ROOT).as_posix() for path in shipped_runs()]
SMALL = "demo/R_18_FPN.yaml"


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def build_without_memory(config) -> torch.nn.Module:
    config.MODEL.DEVICE = "meta"
    with shapes_only():
        return build_model(config)


# --- the shipped files ------------------------------------------------------------------------------------------------


@each("run", RUNS)
def test_a_family_says_nothing_about_weights(run: str) -> None:
    """Neither what to start from nor how that wants its input (the demo's own input is that of our weights)."""
    assert not sets_weights(CONFIG_ROOT / run)
    config, default = load_detector_config(CONFIG_ROOT / run), get_cfg()
    if run != SMALL:
        assert [config_value(config, key) for key in CONTRACT_KEYS] == [
            config_value(default, key) for key in CONTRACT_KEYS
        ]


def test_a_file_of_the_users_that_names_weights_is_seen_through_its_bases(tmp_path: Path) -> None:
    base = write(tmp_path, "MODEL: {WEIGHTS: ''}\n", "base.yaml")
    assert sets_weights(write(tmp_path, f"_BASE_: {base.name}\nSEED: 1\n"))
    assert not sets_weights(write(tmp_path, "SEED: 1\n", "other.yaml"))


FROZEN = {
    "voc/R_50_FPN_frozen.yaml": "res5",
    "coco/R_50_FPN_probe_1x.yaml": None,
}  # and what of the backbone is trained


@pytest.mark.parametrize("run", RUNS)
def test_detector_of_every_family_is_built_with_the_norms_and_the_stages_that_train(run: str) -> None:
    config = load_detector_config(CONFIG_ROOT / run)
    model = build_without_memory(config)
    kinds = {
        name: type(module).__name__ for name, module in model.named_modules() if "BatchNorm" in type(module).__name__
    }
    expected = "FrozenBatchNorm2d" if run in FROZEN else "BatchNorm2d" if run == SMALL else "SyncBatchNorm"
    assert set(kinds.values()) == {expected}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    backbone = {name for name in trained if name.startswith("backbone.bottom_up.") or ".res" in name}
    if run in FROZEN:
        assert {name.split(".")[2] for name in backbone} == {FROZEN[run]} - {None} and len(trained) > len(backbone)
    else:
        assert len(trained) == len(list(model.parameters()))  # FREEZE_AT 0: the stem too
    heads = [name for name in kinds if name.startswith("roi_heads.") and "roi_heads.res5.0" not in name]
    if "C4" in run:
        assert "roi_heads.res5.norm" in kinds
    elif config.MODEL.ROI_BOX_HEAD.NORM and config.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":  # the author's heads
        boxes = model.roi_heads.box_head if "Cascade" in run else [model.roi_heads.box_head]
        assert sum("box_head" in name for name in heads) == 4 * len(boxes)
        assert len(boxes) == (3 if "Cascade" in run else 1) and sum("mask_head" in name for name in heads) == 4
        for box in boxes:
            assert [name for name, _ in box.named_children() if name.startswith("fc")] == ["fc1", "fc_relu1"]
    else:
        assert heads == []
    assert hasattr(model, "roi_heads") is not ("RetinaNet" in run)
    if "keypoint" in run:
        assert model.roi_heads.keypoint_on and not model.roi_heads.mask_on


@pytest.mark.slow
@pytest.mark.parametrize("run", ["voc/R_50_C4_24k.yaml", "coco/R_50_RetinaNet_1x.yaml"])
def test_a_step_of_a_family_with_syncbn_runs_in_one_process_on_the_cpu(run: str) -> None:
    """SyncBN of one process is BN: Detectron2's trainer, one image, one step."""
    words = ("MODEL.DEVICE", "cpu", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8")
    config = load_detector_config(CONFIG_ROOT / run, words)
    apply_init(config, parse_init("random"), frozenset())
    torch.manual_seed(0)
    model = build_model(config).train()
    boxes = Boxes(torch.tensor([[5.0, 5.0, 50.0, 60.0], [20.0, 10.0, 90.0, 90.0]]))
    target = Instances((96, 96), gt_boxes=boxes, gt_classes=torch.tensor([1, 2]))
    with EventStorage():
        losses = model([{"image": torch.rand(3, 96, 96) * 255, "instances": target, "height": 96, "width": 96}] * 2)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())


# --- reading ----------------------------------------------------------------------------------------------------------

TAGS = [
    "!!python/object/apply:os.mkdir ['{canary}']",
    "!!python/object/new:os.mkdir ['{canary}']",
    "!!python/name:os.mkdir",
    "!!python/tuple [1, 2]",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["file", "base", "base of a base", "second of two bases"])
def test_python_tags_are_refused_and_never_run(tmp_path: Path, tag: str, place: str) -> None:
    canary = tmp_path / "canary"
    bad = write(tmp_path, f"OUTPUT_DIR: {tag.format(canary=canary)}\n", "bad.yaml")
    good = write(tmp_path, "SEED: 1\n", "good.yaml")
    run = {
        "file": bad,
        "base": write(tmp_path, "_BASE_: bad.yaml\n", "one.yaml"),
        "second of two bases": write(tmp_path, f"_BASE_: [{good.name}, bad.yaml]\n", "two.yaml"),
        "base of a base": write(tmp_path, "_BASE_: ../one.yaml\n", "sub/deep.yaml"),
    }[place]
    with pytest.raises(ConfigError, match=r"bad\.yaml is not plain YAML") as caught:
        load_detector_config(run)
    assert "python/" in str(caught.value) and not canary.exists()


def test_the_canary_would_sing_under_detectron2s_own_reader(tmp_path: Path) -> None:
    """The negative control: without the guard the tag runs."""
    from detectron2.config import get_cfg

    canary = tmp_path / "canary"
    bad = write(tmp_path, f"OUTPUT_DIR: {TAGS[0].format(canary=canary)}\n")
    get_cfg().merge_from_file(str(bad), allow_unsafe=True)  # its default
    assert canary.is_dir()


def test_list_of_bases_is_merged_in_order_and_the_file_wins(tmp_path: Path) -> None:
    write(tmp_path, "SEED: 1\nOUTPUT_DIR: one\nSOLVER: {MAX_ITER: 10}\n", "one.yaml")
    write(tmp_path, "SEED: 2\nOUTPUT_DIR: two\n", "two.yaml")
    config = load_detector_config(write(tmp_path, "_BASE_: [one.yaml, two.yaml]\nSEED: 3\n"))
    assert (config.SEED, config.OUTPUT_DIR, config.SOLVER.MAX_ITER) == (3, "two", 10)


def test_command_line_wins_over_every_file(tmp_path: Path) -> None:
    path = write(tmp_path, "SEED: 3\n")
    config = load_detector_config(path, ["SEED", "4", "INPUT.MIN_SIZE_TRAIN", "(64,)", "MODEL.WEIGHTS", "a b.pth"])
    assert (config.SEED, config.INPUT.MIN_SIZE_TRAIN, config.MODEL.WEIGHTS) == (4, (64,), "a b.pth")


@each(
    ("text", "message"),
    [
        ("_BASE_: absent.yaml", "no configuration file at .*absent.yaml"),
        ("_BASE_: run.yaml", "_BASE_ entries form a circle"),
        ("_BASE_: 3", "_BASE_ expected a path or a list of paths, found 3"),
        ("_BASE_: https://example.org/a.yaml", "is an address; expected a file"),
        ("- a\n- b", "expected `key: value` lines, found list"),
        ("SOLVER: {BASE_LRR: 0.1}", "unknown key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR?"),
        ("SEED: 1\nSEED: 2", "is given twice"),
        ("SOLVER: {MAX_ITER: many}", "Type mismatch|type"),
        ("a: [1", "is not plain YAML"),
    ],
)
def test_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_detector_config(path)
    assert str(tmp_path) in str(caught.value)


@each(
    ("words", "message"),
    [
        (["SEED"], "expected pairs KEY VALUE, found 1 words; the last one, 'SEED', has no partner"),
        (["SOLVER.BASE_LRR", "1"], "unknown key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR?"),
        (["SEED=1"], "expected KEY VALUE with a space, for example SEED 1"),
        (["SEED", "1", "--resume"], "--resume is among the KEY VALUE pairs: flags go before the first KEY"),
        (["SEED", "one"], "SEED one: "),
        (["MODEL", "3"], "unknown key MODEL"),
    ],
)
def test_bad_command_line_says_what_to_type(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_detector_config(write(tmp_path, "SEED: 1\n"), words)


def test_shipped_files_are_found_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "voc/R_50_C4_24k.yaml"
    assert resolve_config_path(name) == resolve_config_path(f"transfer/configs/{name}") == CONFIG_ROOT / name
    mine = write(tmp_path, "SEED: 1", name)
    assert resolve_config_path(name).resolve() == mine  # the user's own comes first


def test_absent_file_names_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean voc/R_50_C4_24k\.yaml\?"):
        resolve_config_path("voc/R_50_C4_24.yaml")
    with pytest.raises(ConfigError, match="no configuration: give --config-file"):
        resolve_config_path("")


@each(
    ("name", "words"),
    [
        (
            "voc/R_50_C4_24k_infomin.yaml",
            "--config-file voc/R_50_C4_24k.yaml --init infomin=weights/infomin_resnet50.pth",
        ),
        (
            "transfer/configs/coco/R_50_FPN_2x_supervised.yaml",
            "--config-file coco/R_50_FPN_2x.yaml --init supervised=msra_r50",
        ),
        ("coco/R_50_FPN_moco_1x_random.yaml", "--config-file coco/R_50_FPN_moco_1x.yaml --init random_bgr"),
        ("transfer/configs/demo/R_18_FPN_random.yaml", "--config-file demo/R_18_FPN.yaml --init random"),
    ],
)
def test_a_name_that_held_the_initialisation_is_answered_with_the_new_command(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config_path(name)
    assert words in str(caught.value)
    family, init = words.split()[1], words.split()[3]
    assert resolve_config_path(family).is_file()
    assert init.partition("=")[2].startswith("weights/") or parse_init(init)  # what it says to pass is taken


def test_a_base_that_held_an_initialisation_is_answered_with_the_flag(tmp_path: Path) -> None:
    old = write(tmp_path, f"_BASE_: [{CONFIG_ROOT}/base/RCNN_C4.yaml, {CONFIG_ROOT}/init/random.yaml]\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: its base init/random\.yaml is gone: .*pass --init"):
        load_detector_config(old)


# --- what the machine decides -----------------------------------------------------------------------------------------


@pytest.fixture
def no_cuda(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def resolved(*words: str, run: str = RUNS[0], **over):
    """The configuration that runs, and what is said about it."""
    asked = load_detector_config(CONFIG_ROOT / run, words)
    before = asked.dump()
    config, notes = resolve_config(asked, given=frozenset(words[::2]), **over)
    assert config.is_frozen() and asked.dump() == before  # what was asked for stays as it was
    return config, notes


@pytest.mark.usefixtures("no_cuda")
def test_missing_cuda_device_falls_back_to_the_cpu_and_says_so() -> None:
    config, notes = resolved()
    assert config.MODEL.DEVICE == "cpu" and any("running on the CPU" in sentence for sentence in notes)


@pytest.mark.usefixtures("no_cuda")
def test_cuda_device_that_was_asked_for_is_not_replaced() -> None:
    with pytest.raises(ConfigError, match="pass MODEL.DEVICE cpu"):
        resolved("MODEL.DEVICE", "cuda")


def test_device_that_is_there_is_used(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolved()[0].MODEL.DEVICE == "cuda"


@pytest.mark.parametrize(("words", "warned"), [([], True), (["MODEL.DEVICE", "cpu"], False)])
def test_a_file_that_keeps_the_demo_on_the_cpu_of_a_gpu_machine_is_reported(monkeypatch, words, warned) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config, notes = resolved(*words, run=SMALL)
    assert config.MODEL.DEVICE == "cpu" and any("pass MODEL.DEVICE cuda" in sentence for sentence in notes) is warned


def test_missing_seed_is_drawn_and_recorded_and_a_given_one_kept() -> None:
    config, notes = resolved("MODEL.DEVICE", "cpu")
    assert 0 <= config.SEED < 2**31 and f"no SEED given: drew SEED {config.SEED}" in notes
    assert resolved("MODEL.DEVICE", "cpu", "SEED", "0")[0].SEED == 0


def test_loader_processes_that_were_asked_for_are_kept() -> None:
    assert resolved("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "64")[0].DATALOADER.NUM_WORKERS == 64
    assert resolved("MODEL.DEVICE", "cpu")[0].DATALOADER.NUM_WORKERS < 64


# --- the schedule -----------------------------------------------------------------------------------------------------

EIGHT = ("SOLVER.REFERENCE_WORLD_SIZE", "8", "MODEL.DEVICE", "cpu", "SEED", "0", "DATALOADER.NUM_WORKERS", "0")


def test_a_schedule_for_eight_processes_is_scaled_to_two_before_anything_reads_it() -> None:
    """Detectron2 scaled a copy of its own: the record kept 90,000 iterations of a run of 360,000, and cut its history there."""
    config, notes = resolved(*EIGHT, run="coco/R_50_FPN_1x.yaml", num_processes=2)
    solver = config.SOLVER
    schedule = (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS, round(solver.BASE_LR, 9))
    assert schedule == (4, 360000, (240000, 320000), 0.005) and any("now 2 processes" in note for note in notes)
    assert DefaultTrainer.auto_scale_workers(config, 2) is config  # what the trainer runs is what was returned
    assert resolved(*EIGHT, run="coco/R_50_FPN_1x.yaml", num_processes=8)[0].SOLVER.MAX_ITER == 90000


def test_a_schedule_that_cannot_be_scaled_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a divisor of SOLVER.IMS_PER_BATCH 16"):
        resolved(*EIGHT, "SOLVER.REFERENCE_WORLD_SIZE", "5")


@each(
    ("max_iter", "kept", "said"),
    [
        (
            "60000",
            (),
            "SOLVER.STEPS 60000, 80000 not reached in SOLVER.MAX_ITER 60000 iterations",
        ),  # Detectron2 stops here
        ("70000", (60000,), "SOLVER.STEPS 80000 not reached"),
        ("90000", (60000, 80000), None),
    ],
)
def test_learning_rate_steps_after_the_end_are_dropped_and_reported(
    max_iter: str, kept: tuple, said: str | None
) -> None:
    words = ("SOLVER.MAX_ITER", max_iter, "MODEL.DEVICE", "cpu", "SEED", "0")
    config, notes = resolved(*words, run="coco/R_50_FPN_1x.yaml")
    assert kept == config.SOLVER.STEPS and (said is None or any(note.startswith(said) for note in notes))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    build_lr_scheduler(config, optimizer)  # the traceback that there was


@each(
    ("words", "message"),
    [
        (("SOLVER.STEPS", "(20, 10)"), r"SOLVER.STEPS \(20, 10\): expected iterations in ascending order"),
        (("SOLVER.STEPS", "(0,)"), "from 1 on"),
        (("SOLVER.MAX_ITER", "0"), "SOLVER.MAX_ITER 0: expected 1 or more"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused_with_what_to_type(words: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved("MODEL.DEVICE", "cpu", *words)


def supported(*words: str, run: str = "coco/R_50_FPN_1x.yaml", num_processes: int = 1) -> list[str]:
    return check_supported(load_detector_config(CONFIG_ROOT / run, ["MODEL.DEVICE", "cpu", *words]), num_processes)


@each(
    ("words", "message"),
    [
        (["INPUT.FORMAT", "L"], "INPUT.FORMAT 'L': expected RGB or BGR"),
        (["SOLVER.AMP.ENABLED", "True"], "pass SOLVER.AMP.ENABLED False"),
        (["MODEL.LOAD_PROPOSALS", "True"], "pass MODEL.LOAD_PROPOSALS False"),
        (["SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH 0"),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_type(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        supported(*words)


def test_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of the number of processes, 3"):
        supported(num_processes=3)
