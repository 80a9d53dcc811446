"""A plan as data: which commands, in which folders, out of what; and that every row gets the same."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from tests.cases import each
from transfer.compare.stages import Stage
from transfer.compare.study_config import (
    DetectConfig,
    InitConfig,
    PretrainConfig,
    ReadoutConfig,
    StudyConfig,
    budget_seconds,
)
from transfer.compare.study_plan import StudyData, plan_study, schedule_overrides

SEEDS, FRACTIONS, PRETRAIN_SEEDS = (0, 1, 2), (0.1, 1.0), (0, 1)
FAMILY = "demo/R_18_FPN.yaml"
DATA = StudyData(
    pool="{output}/splits/pool.txt",
    train={(fraction, seed): f"coco:f{fraction}_s{seed}.json:images" for fraction in FRACTIONS for seed in SEEDS},
    test="coco:test.json:images",
    readout="classes",
    written=True,
)


def study(*inits: InitConfig, **over: object) -> StudyConfig:
    """Two pre-trainings x three seeds x two fractions."""
    return StudyConfig(
        **{
            "inits": inits or (InitConfig("random", "none"), InitConfig("mine", "pretrained")),
            "pool": "photos",
            "pretrain": PretrainConfig(Path("smoke.yaml"), seeds=PRETRAIN_SEEDS, epochs=3),
            "detect": DetectConfig("x", "y", seeds=SEEDS, fractions=FRACTIONS, config_file=FAMILY, iterations=200),
            "readout": ReadoutConfig("classes", arch="resnet18", seeds=SEEDS, fractions=FRACTIONS),
            **over,
        }  # type: ignore[arg-type]
    )


def after(stage: Stage, word: str) -> str:
    return stage.command[stage.command.index(word) + 1]


def named(stages: tuple[Stage, ...], prefix: str) -> list[Stage]:
    return [stage for stage in stages if stage.folder.startswith(prefix)]


def test_every_initialisation_seed_and_fraction_is_measured_once_and_pre_trainings_are_a_factor_of_their_own() -> None:
    stages = plan_study(study(), DATA)
    for kind in ("detect", "readout"):
        folders = [stage.folder for stage in named(stages, kind)]
        wanted = [f"{kind}/random/f{f:g}_s{s}" for f in FRACTIONS for s in SEEDS]
        wanted += [f"{kind}/mine/p{p}_f{f:g}_s{s}" for p in PRETRAIN_SEEDS for f in FRACTIONS for s in SEEDS]
        assert sorted(folders) == sorted(wanted)
    assert [stage.folder for stage in named(stages, "pretrain")] == ["pretrain/seed0", "pretrain/seed1"]
    assert len({stage.name for stage in stages}) == len(stages)


def test_each_pre_training_reaches_its_own_measurements_and_needs_come_before() -> None:
    stages = plan_study(study(), DATA)
    seen: set[str] = set()
    for stage in stages:
        assert set(stage.needs) <= seen
        seen.add(stage.name)
    for seed in PRETRAIN_SEEDS:
        (pretrain,) = named(stages, f"pretrain/seed{seed}")
        assert f"seed={seed}" in pretrain.command and "data.root={output}/splits/pool.txt" in pretrain.command
        (convert,) = named(stages, f"weights/seed{seed}")
        assert convert.needs == (pretrain.name,) and f"{{checkpoint:pretrain/seed{seed}}}" in convert.command
        for stage in named(stages, f"detect/mine/p{seed}_"):
            assert after(stage, "--init") == f"mine={{output}}/weights/seed{seed}/pretrained.pth"
            assert stage.needs == (convert.name,)
    report = stages[-1]
    measured = {stage.name for stage in stages if stage.init is not None}
    assert report.name == "report" and measured <= set(report.needs)


def test_all_rows_of_one_seed_and_fraction_differ_in_nothing_but_weights_and_folder() -> None:
    """Equal budget, images, order and detector."""
    outside = InitConfig("msra_r50", "msra_r50")
    stages = plan_study(
        study(InitConfig("random", "none"), InitConfig("mine", "pretrained"), outside, readout=None), DATA
    )
    commands: dict[tuple[float | None, int | None], set[tuple[str, ...]]] = {}
    for stage in named(stages, "detect"):
        words = list(stage.command)
        del words[words.index("--init") : words.index("--init") + 2]
        del words[words.index("OUTPUT_DIR") : words.index("OUTPUT_DIR") + 2]
        commands.setdefault((stage.fraction, stage.seed), set()).add(tuple(words))
        assert after(stage, "--train-data") == DATA.train[stage.fraction, stage.seed]  # type: ignore[index]
        assert after(stage, "SOLVER.MAX_ITER") == "200" and after(stage, "SEED") == str(stage.seed)
    assert len(commands) == 6 and all(len(found) == 1 for found in commands.values())
    epochs = {
        word for stage in named(stages, "pretrain") for word in stage.command if word.startswith("optimizer.epochs")
    }
    assert epochs == {"optimizer.epochs=3"}


def test_the_order_is_seed_by_seed_so_that_a_study_that_is_stopped_has_whole_comparisons() -> None:
    stages = named(plan_study(study(), DATA), "detect")
    assert [stage.seed for stage in stages] == sorted(stage.seed or 0 for stage in stages)
    first = [stage for stage in stages if stage.seed == 0]
    assert Counter(stage.init for stage in first) == {"random": 2, "mine": 4}


def test_a_fraction_of_the_classes_is_drawn_by_the_readout_itself() -> None:
    stages = named(plan_study(study(), DATA), "readout")
    small = next(stage for stage in stages if stage.fraction == 0.1)
    whole = next(stage for stage in stages if stage.fraction == 1.0)
    assert {"fraction=0.1", "images_per_class=null"} <= set(small.command)
    assert not any(word.startswith("fraction") for word in whole.command)


def test_random_weights_see_what_the_others_see_and_catalog_weights_are_the_detector_s_alone() -> None:
    stages = plan_study(study(InitConfig("scratch", "none"), InitConfig("supervised", "msra_r50"), pool=None), DATA)
    (one, two) = {after(stage, "--init") for stage in named(stages, "detect")}
    assert {one, two} == {"scratch=random", "supervised=msra_r50"}
    assert {stage.init for stage in named(stages, "readout")} == {"scratch"}
    assert {after(stage, "--weights") for stage in named(stages, "readout")} == {"random:resnet18"}
    assert not named(stages, "pretrain") and "{output}/pretrain" not in stages[-1].command
    other = named(plan_study(study(InitConfig("random_bgr", "random_bgr"), pool=None), DATA), "readout")
    assert {after(stage, "--weights") for stage in other} == {"random:resnet18"}


def test_a_checkpoint_as_downloaded_is_converted_first_and_converted_weights_are_used_as_they_are(
    tmp_path: Path,
) -> None:
    raw, ready = tmp_path / "raw.pth.tar", tmp_path / "ready.pth"
    raw.write_bytes(b"1")
    ready.write_bytes(b"2")
    ready.with_suffix(".json").write_text("{}")
    stages = plan_study(study(InitConfig("raw", str(raw)), InitConfig("ready", str(ready)), pool=None), DATA)
    (convert,) = named(stages, "weights")
    assert str(raw) in convert.command and "--branch" not in convert.command
    by_row = {stage.init: stage for stage in named(stages, "detect")}
    assert after(by_row["raw"], "--init") == "raw={output}/weights/raw/pretrained.pth"
    assert by_row["raw"].needs == (convert.name,) and not by_row["ready"].needs
    assert after(by_row["ready"], "--init") == f"ready={ready}"
    before = [convert.fingerprint(), by_row["ready"].fingerprint()]
    raw.write_bytes(b"3")
    ready.write_bytes(b"3")
    assert [convert.fingerprint() != before[0], by_row["ready"].fingerprint() != before[1]] == [True, True]


def test_an_initialisation_can_have_a_pre_training_of_its_own() -> None:
    moco = InitConfig("moco", "pretrained", PretrainConfig(Path("moco_v2_r50_200ep"), seeds=(5,)))
    stages = plan_study(study(InitConfig("mine", "pretrained"), moco), DATA)
    folders = [stage.folder for stage in named(stages, "pretrain")]
    assert folders == ["pretrain/seed0", "pretrain/seed1", "pretrain/moco/seed5"]
    found = {after(stage, "--init") for stage in named(stages, "detect/moco")}
    assert found == {"moco={output}/weights/moco/seed5/pretrained.pth"}


def test_files_that_the_study_wrote_are_read_with_their_crowds_and_a_user_s_own_are_asked_about() -> None:
    assert "--keep-crowds" in named(plan_study(study(), DATA), "detect")[0].command
    own = dataclasses.replace(DATA, written=False)
    assert "--keep-crowds" not in named(plan_study(study(), own), "detect")[0].command


@each("iterations", [1, 2, 3, 10, 100, 999, 24000])
def test_a_schedule_of_any_length_has_its_steps_inside(iterations: int) -> None:
    words = schedule_overrides(iterations)
    values = dict(zip(words[::2], words[1::2], strict=True))
    steps = eval(values["SOLVER.STEPS"])
    assert (
        isinstance(steps, tuple) and all(0 < step < iterations for step in steps) and list(steps) == sorted(set(steps))
    )
    assert int(values["SOLVER.WARMUP_ITERS"]) <= iterations / 10


@each(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1 h 30 min", 5400), ("45", 45), ("1d", 86400), ("1.5h", 5400)],
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert budget_seconds(text) == seconds


@each("text", ["", "h", "two hours", "2h later", "-1h", "0m", "2 x"])
def test_what_is_no_time_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="2h, 1h30m or 90m"):
        budget_seconds(text)
