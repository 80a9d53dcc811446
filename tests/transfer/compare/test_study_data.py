"""What a study writes of one's own data, and what it chooses by them: pool without test images, split, fractions, detector."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.base.errors import ConfigError, DataError
from pretrain.data.source import open_source
from tests.transfer.fake_tools import write_tools
from transfer.compare.budget import Cost
from transfer.compare.choices import (
    SIDES,
    Choices,
    apply_choices,
    choose,
    image_side,
    read_choices,
    require_same_budget,
    save_choices,
)
from transfer.compare.measuring import TRIALS, _Bench, measure
from transfer.compare.runner import StageFolder
from transfer.compare.study import show_study
from transfer.compare.study_config import (
    DetectConfig,
    InitConfig,
    PretrainConfig,
    ReadoutConfig,
    StudyConfig,
    load_study,
)
from transfer.compare.study_data import prepare_data
from transfer.compare.study_plan import StudyData, plan_study
from transfer.compare.study_settle import settle_study
from transfer.data.spec import parse_spec, read_data
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import resolve_config_path

INITS = (InitConfig("random", "none"), InitConfig("mine", "pretrained"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """20 labelled images (a box that nearly fills each), of which the first three are in the pool of 12, too; class folders."""
    for folder in ("photos", "labelled", "classes/a", "classes/b"):
        (tmp_path / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)

    def save(path: Path) -> None:
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)

    for i in range(9):
        save(tmp_path / "photos" / f"{i}.png")
    images, annotations = [], []
    for i in range(20):
        save(tmp_path / "labelled" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 48})
        annotations.append(
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": 1 + i % 2,
                "bbox": [2, 3, 56, 42],
                "area": 2352,
                "iscrowd": 0,
            }
        )
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "leaf"}]
    (tmp_path / "labels.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    for i in range(20):
        shutil.copy(tmp_path / "labelled" / f"{i}.png", tmp_path / "photos" / f"copy{i}.png")
    for name in "ab":
        for i in range(8):
            save(tmp_path / "classes" / name / f"{i}.png")
    return tmp_path


def study(own: Path, **over: object) -> StudyConfig:
    detect = DetectConfig(f"coco:{own}/labels.json:{own}/labelled", seeds=(0, 1), fractions=(0.2, 1.0))
    values = {"inits": INITS, "pool": f"{own}/photos", "pretrain": PretrainConfig(), "detect": detect}
    return StudyConfig(**{**values, **over})  # type: ignore[arg-type]


def images_of(spec: str, output: Path) -> set[str]:
    data = read_data(parse_spec(spec.replace("{output}", str(output))))
    return {Path(record["file_name"]).name for record in data.records}


def test_test_images_are_held_out_of_training_and_pool_and_all_rows_of_a_seed_share_their_fraction(
    own: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    config = study(own, readout=ReadoutConfig(f"{own}/classes"))
    prepared = prepare_data(config, output)
    data = prepared.data
    test = images_of(data.test, output)
    whole = images_of(data.train[1.0, 0], output)
    assert len(test) == 5 and len(whole) == 15 and not test & whole and data.train[1.0, 0] == data.train[1.0, 1]
    small = [images_of(data.train[0.2, seed], output) for seed in (0, 1)]
    assert [len(part) for part in small] == [3, 3] and small[0] != small[1] and small[0] | small[1] < whole
    assert data.pool == "{output}/splits/pool.txt"
    pool = {Path(open_source(output / "splits" / "pool.txt").where(i)).name for i in range(24)}
    assert pool == {f"{i}.png" for i in range(9)} | {f"copy{name}" for name in whole}
    folders = {
        split: sorted(path.parent.name for path in (output / "splits" / "readout" / split).rglob("*.png"))
        for split in ("train", "val")
    }
    assert folders == {"train": ["a"] * 6 + ["b"] * 6, "val": ["a"] * 2 + ["b"] * 2}
    assert any("5 are test images or changed copies of them and are left out" in note for note in prepared.notes)
    # Made again it is the same, and no file is touched, so that what is done stays done.
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert prepare_data(config, output).data == data
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}


def test_a_further_fraction_or_seed_leaves_the_others_as_they_were(own: Path, tmp_path: Path) -> None:
    config = study(own)
    prepare_data(config, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "splits").iterdir()}
    assert config.detect is not None
    more = replace(config, detect=replace(config.detect, seeds=(0, 1, 2), fractions=(0.2, 0.5, 1.0)))
    prepare_data(more, tmp_path / "out")
    after = {path.name: path.read_bytes() for path in (tmp_path / "out" / "splits").iterdir()}
    assert before.items() < after.items()


def test_a_user_s_own_test_set_is_left_as_it_is_and_copies_of_it_in_training_are_named(
    own: Path, tmp_path: Path
) -> None:
    spec = f"coco:{own}/labels.json:{own}/labelled"
    detect = DetectConfig(spec, test_data=spec)
    prepared = prepare_data(study(own, detect=detect), tmp_path / "out")
    assert (
        prepared.data.test == spec and not prepared.data.written and prepared.data.files == (own / "labels.json",) * 2
    )
    assert any("20 of 20 test images are also training images" in note for note in prepared.notes)


def test_a_pool_that_is_all_test_images_or_an_archive_with_some_is_refused(own: Path, tmp_path: Path) -> None:
    spec = f"coco:{own}/labels.json:{own}/labelled"
    config = study(own, detect=DetectConfig(spec, test_data=spec))
    with pytest.raises(DataError, match="all of its 20 images are test images"):
        prepare_data(replace(config, pool=f"{own}/labelled"), tmp_path / "out")
    shutil.make_archive(str(tmp_path / "pool"), "zip", own / "photos")
    with pytest.raises(DataError, match="20 of its 29 images are test images.*unpack it"):
        prepare_data(replace(config, pool=f"{tmp_path}/pool.zip"), tmp_path / "out")


# --- choices ------------------------------------------------------------------------------------------------------------


def boxes(side: float, *, size: int = 480, count: int = 50) -> list[dict]:
    things = [{"bbox": [0.0, 0.0, side, side]}] * count
    return [{"width": size * 4 // 3, "height": size, "annotations": things}]


def test_an_image_size_shows_the_small_boxes_and_is_never_above_the_images_own() -> None:
    assert image_side(boxes(200))[0] == SIDES[0]
    assert image_side(boxes(40))[0] == 192  # 16 px of 40 at 480
    side, why = image_side(boxes(10))
    assert side == SIDES[-1] and "768 px" in why
    assert image_side(boxes(10, size=200))[0] == 192


def test_the_detector_is_chosen_by_device_boxes_and_encoder_and_says_why(own: Path) -> None:
    config = study(own, readout=ReadoutConfig(f"{own}/classes"))
    train = read_data(parse_spec(f"coco:{own}/labels.json:{own}/labelled"))
    chosen = choose(config, train=train, pool_size=29, on_gpu=False)
    values = chosen.values
    assert values["detect.config_file"] == "demo/R_18_FPN.yaml" and values["readout.arch"] == "resnet18"
    assert Path(values["pretrain.config_file"]).name == "small_1k.yaml"  # as tools/pretrain.py chooses
    more = choose(config, train=None, pool_size=5000, on_gpu=False).values
    assert Path(more["pretrain.config_file"]).name == "small_10k.yaml"
    on_gpu = choose(config, train=None, pool_size=290, on_gpu=True).values
    assert Path(on_gpu["pretrain.config_file"]).name == "infomin_r50_200ep.yaml"
    assert any(word.startswith("method.queue_size=") for word in on_gpu["pretrain.overrides"])
    words = values["detect.overrides"]
    resolved = load_detector_config(resolve_config_path("demo/R_18_FPN.yaml"), words)
    assert resolved.INPUT.MIN_SIZE_TEST == 160 and resolved.MODEL.ANCHOR_GENERATOR.SIZES[-1][0] > 96
    assert any("anchors" in note and "boxes" in note for note in chosen.notes)
    on_gpu = choose(replace(config, detect=None), train=None, pool_size=None, on_gpu=True).values
    assert Path(on_gpu["pretrain.config_file"]).name == "infomin_r50_200ep.yaml"


def test_what_the_study_says_is_never_replaced(own: Path) -> None:
    part = PretrainConfig(Path("smoke.yaml"), overrides=("method.queue_size=64", "encoder.arch=resnet18"), epochs=7)
    assert study(own).detect is not None
    detect = DetectConfig("coco:a:b", config_file="demo/R_18_FPN.yaml", iterations=9, overrides=("SOLVER.BASE_LR", "1"))
    config = study(own, pretrain=part, detect=detect)
    train = read_data(parse_spec(f"coco:{own}/labels.json:{own}/labelled"))
    chosen = choose(config, train=train, pool_size=29, on_gpu=True)
    stored = Choices({**chosen.values, "pretrain.epochs": 99, "detect.iterations": 99, "detect.config_file": "x"})
    assert apply_choices(config, stored) == config


def test_encoders_that_no_detector_takes_together_are_refused(own: Path) -> None:
    inits = (*INITS, InitConfig("msra_r50", "msra_r50"), InitConfig("msra_r101", "msra_r101"))
    with pytest.raises(ConfigError, match="msra_r50: resnet50, msra_r101: resnet101"):
        choose(study(own, inits=inits), train=None, pool_size=None, on_gpu=True)
    chosen = choose(study(own, inits=inits[:3]), train=None, pool_size=None, on_gpu=False)
    assert chosen.values["detect.config_file"] == "coco/R_50_FPN_1x.yaml"


MSRA, COCO = InitConfig("msra_r50", "msra_r50"), InitConfig("coco", "coco_r50_c4_3x")  # both BGR
TORCH = InitConfig("torchvision_r50", "torchvision_r50")


@pytest.mark.parametrize(
    ("others", "text", "note"),
    [
        ((MSRA,), "random=like:msra_r50", "random: input BGR, mean 103.5 116.3 123.7, std 1 1 1, stride in the 1x1"),
        ((MSRA, COCO), "random=like:msra_r50", ", as all other rows"),
        ((INITS[1],), "random", "random: input RGB, mean 123.7 116.3 103.5, std 58.4 57.12 57.38, stride in the 3x3"),
        ((MSRA, INITS[1]), "random", "as mine (the study's own pre-training). The rows disagree: msra_r50: BGR"),
        (
            (TORCH, MSRA, COCO),
            "random=like:msra_r50",
            "as msra_r50 (the input of most rows). The rows disagree: torchvision",
        ),
        ((TORCH, MSRA), "random", "as torchvision_r50 (the first row). The rows disagree: msra_r50: BGR"),
    ],
)
def test_random_weights_take_the_input_of_the_rest_and_say_whose(
    own: Path, others: tuple[InitConfig, ...], text: str, note: str
) -> None:
    made = PretrainConfig() if INITS[1] in others else None
    detect = DetectConfig(f"coco:{own}/labels.json:{own}/labelled", test_data=f"coco:{own}/labels.json:{own}/labelled")
    config = study(own, inits=(INITS[0], *others), pretrain=made, pool=f"{own}/photos" if made else None, detect=detect)
    chosen = choose(config, train=None, pool_size=None, on_gpu=True)
    (line,) = [line for line in chosen.notes if line.startswith("random: input")]
    assert note in line, line
    data = StudyData(train={(1.0, 0): "a"}, test="b", pool="c")
    (stage,) = [stage for stage in plan_study(apply_choices(config, chosen), data) if stage.init == "random"]
    assert stage.command[stage.command.index("--init") + 1] == text
    told = replace(config, inits=(replace(INITS[0], input_of=others[-1].name), *others))
    assert not [line for line in choose(told, train=None, pool_size=None, on_gpu=True).notes if "random: input" in line]


def test_random_weights_beside_a_file_take_its_input_in_the_detector_and_in_the_readout(own: Path) -> None:
    theirs = InitConfig("theirs", str(own / "theirs.pth"))
    (own / "theirs.pth").write_bytes(b"not converted yet")
    detect = DetectConfig("coco:a:b", test_data="coco:c:d", config_file="coco/R_50_FPN_1x.yaml")
    random = replace(INITS[0], input_of="theirs")
    readout = ReadoutConfig("classes", arch="resnet50")
    config = StudyConfig(inits=(random, theirs), detect=detect, readout=readout)
    data = StudyData(train={(1.0, 0): "a"}, test="b", readout="classes")
    first, second = (stage for stage in plan_study(config, data) if stage.init == "random")
    converted = "{output}/weights/theirs/pretrained.pth"
    assert f"random:resnet50:{converted}" in first.command and f"random=like:{converted}" in second.command
    assert first.needs == second.needs == ("convert-theirs",)
    for wrong in ("random", "nobody"):
        with pytest.raises(ValueError, match="input_of: expected one of the inits that are not random"):
            StudyConfig(inits=(replace(random, input_of=wrong), theirs), detect=detect)
    with pytest.raises(ValueError, match="have an input of their own"):
        replace(theirs, input_of="random")


def test_choices_are_kept_and_another_budget_in_their_folder_is_refused(own: Path, tmp_path: Path) -> None:
    choices = Choices(
        {"pretrain.epochs": 5, "detect.overrides": ["A", "1"]}, ("why",), "2h", {"detect": {"start": 1.0}}
    )
    save_choices(choices, tmp_path)
    assert read_choices(tmp_path) == choices and read_choices(tmp_path / "other") is None
    require_same_budget(choices, study(own, budget="2h"), tmp_path)
    with pytest.raises(ConfigError, match="begun with --budget 2h: pretrain.epochs 5"):
        require_same_budget(choices, study(own, budget="3h"), tmp_path)
    (tmp_path / "choices.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        read_choices(tmp_path)


def test_the_template_has_every_key_and_its_values_are_the_defaults() -> None:
    from transfer.compare.stages import ROOT

    path = ROOT / "configs" / "study" / "own_data.yaml"
    text = path.read_text()
    config = load_study(path)
    for part in (StudyConfig, PretrainConfig, DetectConfig, ReadoutConfig):
        for name in part.__dataclass_fields__:
            assert f"{name}:" in text or name == "data", f"{part.__name__}.{name}"
    assert config.detect == DetectConfig(train_data="coco:data/labels.json:data/labelled", seeds=(0, 1, 2, 3, 4))
    assert config.pretrain == PretrainConfig() and config.budget == "2h" and config.pool == "data/photos"


# --- a budget from end to end -------------------------------------------------------------------------------------------

SMALL_BATCH = PretrainConfig(overrides=("optimizer.batch_size=8",))  # of a pool of 24
COSTS = {
    "pretrain": Cost(5.0, 0.1, 2**30),
    "convert": Cost(5.0),
    "detect": Cost(10.0, 0.2, 2**30),
    "readout": Cost(5.0),
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
    """What was measured, in place of measuring it."""
    found: list[StudyConfig] = []
    monkeypatch.setattr(
        "transfer.compare.study_settle.measure", lambda config, *rest, **more: found.append(config) or COSTS
    )
    return found


def test_a_budget_is_divided_once_and_a_study_that_goes_on_keeps_its_length(
    own: Path, tmp_path: Path, measured: list[StudyConfig]
) -> None:
    def settle(config: StudyConfig) -> tuple[int | None, int | None]:
        settled = settle_study(config, tmp_path / "out", tmp_path / "out", devices=(), say=lambda text: None)
        save_choices(settled.choices, tmp_path / "out")
        assert settled.config.pretrain is not None and settled.config.detect is not None
        return settled.config.pretrain.epochs, settled.config.detect.iterations

    config = study(own, pretrain=SMALL_BATCH, budget="20m")
    first = settle(config)
    assert first[0] and first[1] and len(measured) == 1
    assert settle(config) == first and len(measured) == 1
    assert config.detect is not None
    more = replace(config, detect=replace(config.detect, seeds=(0, 1, 2)), budget=None)
    assert settle(more) == first  # a further seed is measured as the others were
    with pytest.raises(ConfigError, match="begun with --budget 20m"):
        settle(replace(config, budget="3h"))


def test_given_lengths_that_do_not_fit_their_budget_are_refused_with_what_they_take(
    own: Path, tmp_path: Path, measured: list[StudyConfig]
) -> None:
    detect = DetectConfig(f"coco:{own}/labels.json:{own}/labelled", seeds=(0, 1), iterations=100_000)
    config = study(own, detect=detect, pretrain=replace(SMALL_BATCH, epochs=1), budget="20m")
    with pytest.raises(
        ConfigError, match=r"100000 iterations, as given, take about .* for 1 pre-trainings, 4 fine-tunings"
    ):
        settle_study(config, tmp_path / "out", tmp_path / "out", devices=(), say=lambda text: None)


def test_a_dry_run_says_time_and_memory_by_kind_and_every_command_and_writes_nothing(
    own: Path, tmp_path: Path, measured: list[StudyConfig]
) -> None:
    said: list[str] = []
    show_study(study(own, pretrain=SMALL_BATCH, budget="20m"), tmp_path / "out", say=said.append, devices=())
    text = "\n".join(said)
    assert not (tmp_path / "out").exists() and len(measured) == 1
    assert text.count("$ ") == 1 + 1 + 2 * 2 * 2 + 1  # pre-training, conversion, rows x seeds x fractions, report
    for part in ("pretrain    1 x", "detect      8 x", "1,024 MiB", "in all"):
        assert part in text, text
    assert f"{tmp_path}/out/splits/train_f0.2_s0.json" in text and "infomin_plan_" not in text


FAKE = """
time.sleep(0.02)
if tool == "pretrain":
    pretraining()
elif tool == "convert_weights":
    write(words[1], {})
elif tool == "train_net":
    assert int(after("SOLVER.MAX_ITER")) in (4, 16)
    detection({"bbox": {"AP": 1.0}})
"""


@pytest.mark.slow
def test_what_is_measured_is_every_kind_of_stage_in_a_folder_of_its_own(own: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write_tools(root, ["pretrain", "convert_weights", "train_net"], FAKE)
    out = tmp_path / "out"
    config = study(
        own,
        pretrain=PretrainConfig(Path("smoke.yaml")),
        detect=DetectConfig("x", "y", config_file="demo/R_18_FPN.yaml"),
    )
    data = StudyData(pool=f"{own}/photos", train={(1.0, 0): "x"}, test="y")
    costs = measure(config, data, out, say=lambda text: None, root=root)
    assert set(costs) == {"pretrain", "convert", "detect"}
    assert all(cost.start > 0 and cost.memory > 2**20 for cost in costs.values())
    calls = [line.split()[0] for line in (root / "calls.txt").read_text().splitlines()]
    # Two trials of a pool of three batches; the fake detector does not say what an iteration takes, so it runs twice.
    assert calls == ["pretrain", "pretrain", "convert_weights", "train_net", "train_net"] and not out.exists()
    (root / "break_train_net").touch()
    with pytest.raises(ConfigError, match="exit code 7, and so would the study:\n  hello from train_net"):
        measure(config, data, out, say=lambda text: None, root=root)


@pytest.mark.parametrize("archive", [False, True])
def test_a_pre_training_is_measured_on_few_images_of_any_pool(own: Path, tmp_path: Path, archive: bool) -> None:
    """Where the pool was an archive, all of it was: its epochs counted as of three steps."""
    pool = shutil.make_archive(str(tmp_path / "pool"), "zip", own / "photos") if archive else f"{own}/photos"
    part = PretrainConfig(Path("smoke.yaml"), overrides=("optimizer.batch_size=8",))
    (tmp_path / "place").mkdir()
    bench = _Bench(study(own, pretrain=part), StudyData(pool=pool), StageFolder(tmp_path / "place"), print)
    place, images = bench._few_images(TRIALS[0])
    assert images == 24 == len(open_source(place)) and len(bench.trials()) == 2  # of 29 images
