"""The command end to end on tiny data, and Detectron2's own tool on the FPN configurations."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.engine import launch
from PIL import Image

from pretrain.base.contract import InputContract
from pretrain.base.errors import run_tool
from pretrain.base.record import Record, read_record
from tests.tools.in_process import run_tool_here
from tests.transfer.conversion.backbones import passed_proof
from transfer.conversion.sidecar import Sidecar, detectron2_settings
from transfer.conversion.weight_files import file_sha256
from transfer.data.problems import ReadOptions
from transfer.demo_data.config import SyntheticConfig
from transfer.demo_data.write import write_dataset
from transfer.detect.config import load_detector_config, plain_values
from transfer.detect.config_files import resolve_config_path
from transfer.detect.inits import apply_init, parse_init
from transfer.detect.launch import worker
from transfer.detect.options import RunOptions
from transfer.detect.run import prepare_run, run_detection

# Detectron2 leaves the configuration file that it reads open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "train_net.py"
STOCK = Path(importlib.util.find_spec("detectron2").origin).parents[1] / "tools" / "train_net.py"
FAMILY = "demo/R_18_FPN.yaml"
RANDOM = ("--config-file", FAMILY, "--init", "random")
TINY = (
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "1", "DATALOADER.NUM_WORKERS", "0"),
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"),
)


def run(*arguments: str, tool: Path = TOOL, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(tool), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "demo"
    config = SyntheticConfig(num_unlabelled=8, num_readout=8, num_train_scenes=4, num_test_scenes=2)
    write_dataset(config, root, num_workers=1)
    return root


def data(root: Path, kind: str) -> list[str]:
    words = []
    for split in ("train", "test"):
        coco = f"coco:{root}/coco/annotations/instances_{split}.json:{root}/coco/{split}"
        words += [f"--{split}-data", coco if kind == "coco" else f"voc:{root}/voc:{split}"]
    return words


def record(path: Path) -> Record:
    return read_record(path / "record.json")


@pytest.fixture(scope="module")
def trained(demo: Path, tmp_path_factory) -> Path:
    """A finished run of two iterations on the COCO layout."""
    out = tmp_path_factory.mktemp("runs") / "coco"
    done = run(*RANDOM, *data(demo, "coco"), "OUTPUT_DIR", str(out), *TINY)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Evaluation results for segm" in done.stdout and "copypaste" not in done.stdout
    table = done.stdout.rpartition("AP    AP50    AP75")[2]
    assert all(word in table for word in ("boxes", "masks", f"record: {out / 'record.json'}"))
    return out


@pytest.mark.slow
def test_coco_run_leaves_what_the_report_reads(trained: Path) -> None:
    found = record(trained)
    assert (found.kind, found.status, found.initialisation.name) == ("detection", "done", "random")
    assert (found.details["iterations"], found.details["num_train_images"], found.seeds["run"]) == (2, 4, 0)
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP"} <= set(found.figures)
    assert found.history[-1] == {"iteration": 2, **found.figures} and found.cost.images == 4
    assert found.commands[0].startswith("python ") and "--train-data" in found.commands[0]
    samples = json.loads((trained / "samples.json").read_text())["images"]
    assert len(samples) == 2 and samples[0]["ground_truth"] and Path(samples[0]["file"]).is_file()


@pytest.mark.slow
def test_evaluation_alone_gives_the_same_ap_and_leaves_the_run_as_it_was(demo: Path, trained: Path) -> None:
    kept = {path.name: path.read_bytes() for path in trained.iterdir() if path.suffix in (".json", ".yaml")}
    words = (*RANDOM, "--eval-only", *data(demo, "coco")[2:], *("OUTPUT_DIR", str(trained)), *TINY[6:])
    done = run_tool_here("train_net.py", "--resume", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    again = record(trained / "evaluation")
    assert again.figures == record(trained).figures and again.details["evaluation_of"] == record(trained).hash
    assert again.initialisation == record(trained).initialisation and again.hash != record(trained).hash
    assert {name: (trained / name).read_bytes() for name in kept} == kept


@pytest.mark.slow
def test_voc_run_prints_the_three_figures_and_resume_goes_on(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "voc"
    words = (*data(demo, "voc"), "OUTPUT_DIR", str(out), *TINY)
    first = run_tool_here("train_net.py", *RANDOM, *words, "MODEL.DEVICE", "cpu", "SEED", "5")
    assert first.returncode == 0, first.stderr[-3000:]
    said = (out / "log.txt").read_text()
    assert "AP    AP50    AP75\nboxes" in said and "the data have boxes only" in said
    assert all(name.startswith("bbox/") for name in record(out).figures) and record(out).seeds["run"] == 5
    allowed = ("--resume", "--allow-change", "SOLVER.MAX_ITER")
    longer = run_tool_here("train_net.py", *RANDOM, *allowed, *words, "SEED", "5", "SOLVER.MAX_ITER", "3")
    assert longer.returncode == 0, longer.stderr[-3000:]
    said = (out / "log.txt").read_text()
    assert "Starting training from iteration 2" in said and "detector: 154 of 154 tensors" in said
    gone_on = record(out)
    assert gone_on.details["iterations"] == 3 and [row["iteration"] for row in gone_on.history] == [1, 2, 3]
    assert gone_on.cost.images == 6 and len(gone_on.commands) == 2
    assert gone_on.details["changes"] == ["SOLVER.MAX_ITER: 2 there, 3 now"]


def write_sidecar(weights: Path, arch: str) -> None:
    """As tools/convert_weights.py writes it."""
    source, contract = {"layout": "infomin-transfer", "branch": "query", "method": "infomin"}, InputContract()
    settings = detectron2_settings(arch, contract)
    sidecar = Sidecar(file_sha256(weights), arch, source, contract, settings, passed_proof())
    weights.with_suffix(".json").write_text(json.dumps(sidecar.to_dict()))


@pytest.mark.slow
def test_converted_weights_are_proven_loaded_and_a_contradiction_stops(
    demo: Path, trained: Path, refusal, tmp_path: Path
) -> None:
    state = torch.load(trained / "model_final.pth", weights_only=True)["model"]
    names = {name: name.removeprefix("backbone.bottom_up.") for name in state if ".bottom_up." in name}
    weights = tmp_path / "w.pth"
    torch.save({"model": {short: state[name] for name, short in names.items()}, "matching_heuristics": True}, weights)
    write_sidecar(weights, "resnet18")
    out = tmp_path / "out"
    start = ("--config-file", FAMILY, "--init", f"mine={weights}")
    words = (*start, *data(demo, "coco"), "OUTPUT_DIR", str(out), *TINY)
    assert "pass: INPUT.FORMAT RGB" in refusal(*words, "INPUT.FORMAT", "BGR")
    assert not out.exists()
    right = run_tool_here("train_net.py", *words)
    assert right.returncode == 0, right.stderr[-3000:]
    log = (out / "log.txt").read_text()
    assert "backbone: 100 of 100 tensors loaded" in log and f"--init mine={weights}: set INPUT.FORMAT RGB" in log
    found = record(out)
    assert found.initialisation.name == "mine" and found.details["sidecar"]["source"]["branch"] == "query"
    assert found.details["init"]["settings"]["MODEL.RESNETS.DEPTH"] == 18
    # It goes on, and is evaluated, with the values that it began with, when the weights are gone and --init is not given again.
    weights.unlink()
    more = ("--resume", "--config-file", FAMILY, *data(demo, "coco"), "OUTPUT_DIR", str(out), *TINY)
    again = run_tool_here("train_net.py", *more)
    assert again.returncode == 0, again.stderr[-3000:]
    assert record(out).initialisation == found.initialisation and record(out).details["init"] == found.details["init"]
    refused = refusal("--init", "random", *more)
    assert "MODEL.WEIGHTS" in refused and "began with other values" in refused


@pytest.fixture
def tool() -> dict:
    """The script's functions, as a worker process sees them."""
    before = list(sys.path)
    functions = runpy.run_path(str(TOOL))
    assert sys.path == before  # only the command itself drops its folder
    return functions


@pytest.fixture
def refusal(tool: dict, monkeypatch, capsys):
    """Function: a command line that must end with exit code 2 -> what it says."""

    def attempt(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tools/train_net.py", *words])
        with pytest.raises(SystemExit) as left:
            run_tool(tool["main"])
        said = capsys.readouterr().err
        assert left.value.code == 2 and said.startswith("error: ") and "Traceback" not in said
        return said

    return attempt


@pytest.mark.slow
def test_a_detector_as_start_weights_is_named_with_what_can_be_done(
    demo: Path, trained: Path, refusal, tmp_path: Path
) -> None:
    words = (*("--config-file", FAMILY), *data(demo, "coco"), *("OUTPUT_DIR", str(tmp_path / "out")), *TINY)
    weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"))
    message = refusal(*words, *weights)
    assert "is a whole detector" in message and "--eval-only" in message and "--trust" in message
    assert not (tmp_path / "out").exists()
    done = run_tool_here("train_net.py", "--trust", *words, *weights)  # what the message says works
    assert done.returncode == 0, done.stderr


def test_a_python_tag_is_refused_and_never_run(refusal, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path}/canary']\n")
    assert f"{bad} is not plain YAML" in refusal("--config-file", str(bad), "OUTPUT_DIR", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-file", "demo/R_18_FNP.yaml"], "did you mean demo/R_18_FPN.yaml?"),
        (["--config-file", "demo/R_18_FPN_random.yaml"], "--config-file demo/R_18_FPN.yaml --init random"),
        (["--config-file", FAMILY], "pass --init mine=FILE"),
        (["--config-file", FAMILY, "--init", "msra_r50"], "pass the family that fits: --config-file "),
        ([*RANDOM, "INPUT.FORMAT", "BGR"], "pass: INPUT.FORMAT RGB"),
        ([*RANDOM, "MODEL.WEIGHTS", "w.pth"], "leave one out"),
        ([*RANDOM, "--eval-only", "--test-data", "coco:a:b", "MODEL.WEIGHTS", "w.pth"], "leave --init out"),
        ([*RANDOM, "--dump-config", "x.yaml", "--resume"], "leave --resume and --eval-only out"),
        ([*RANDOM, "--dump-config", "no/such/x.yaml"], "cannot be written"),
        (
            [*RANDOM, "--train-data", "coco:x"],
            "expected coco:ANNOTATIONS.json:IMAGE_DIR, voc:ROOT:SPLIT",
        ),
        ([*RANDOM, "--train-data", "voc:absent:train"], "no folder at absent"),
        ([*RANDOM], "no training data: give --train-data SPEC"),
        (["--num-gpus", "64", *RANDOM], "--num-gpus 64, but this machine has"),
        (["--num-gpus", "-1", *RANDOM], "--num-gpus -1: expected 0 or more"),
        (["--num-gpus", "0", "--num-machines", "2", *RANDOM], "--num-gpus 0: expected 1 or more"),
        (["--num-machines", "0", *RANDOM], "--num-machines 0: expected 1 or more"),
        (["--machine-rank", "1", *RANDOM], "--machine-rank 1: expected 0 to 0"),
        ([*RANDOM, "SOLVER.MAXITER", "2"], "unknown key SOLVER.MAXITER; did you mean SOLVER.MAX_ITER?"),
        (["--config-file", FAMILY, "MODEL.WEIGHTS", "absent.pth"], "no weight file at absent.pth"),
    ],
)
def test_users_mistake_ends_with_code_two_and_writes_nothing(
    refusal, tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in refusal(*words, "OUTPUT_DIR", str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_switches_for_doubtful_data_and_changes_arrive(tool: dict, monkeypatch, tmp_path: Path) -> None:
    class Arrived(Exception):
        pass

    def prepare(options):
        raise Arrived(options)

    (tmp_path / "classes.txt").write_text("dog\nsea lion\n")
    monkeypatch.setitem(tool["main"].__globals__, "prepare_run", prepare)
    switches = ["--crowd-as-objects", "--skip-unreadable", "--large-images", "--classes", str(tmp_path / "classes.txt")]
    changes = ["--resume", "--allow-change", "SEED", "--allow-change", "SOLVER.MAX_ITER"]
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py", *RANDOM, *switches, *changes, "SEED", "1"])
    with pytest.raises(Arrived) as arrived:
        tool["main"]()
    (options,) = arrived.value.args
    assert options.read == ReadOptions(
        crowd_as_objects=True, skip_unreadable=True, large_images=True, class_names=("dog", "sea lion")
    )
    assert options.allow_change == ("SEED", "SOLVER.MAX_ITER") and options.overrides == ("SEED", "1")
    assert options.command == f"python tools/train_net.py {' '.join([*RANDOM, *switches, *changes])} SEED 1"


def test_a_failed_download_leaves_no_output(refusal, demo: Path, tmp_path: Path, monkeypatch) -> None:
    def offline(path: str) -> str:
        raise URLError("name resolution")

    monkeypatch.setattr("transfer.detect.loading.PathManager.get_local_path", offline)
    weights = ("MODEL.WEIGHTS", "detectron2://ImageNetPretrained/R-18.pkl")  # one whose input nothing here knows
    words = ("--config-file", FAMILY, *data(demo, "coco"), "OUTPUT_DIR", str(tmp_path / "out"))
    assert "cannot download" in refusal(*words, *weights)
    assert not (tmp_path / "out").exists()


def test_folder_in_use_is_left_alone(refusal, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    said = refusal(*RANDOM, *data(demo, "voc"), "OUTPUT_DIR", str(tmp_path))
    assert "is in use (it holds notes.txt)" in said and [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_images_that_lie_on_their_side_train_evaluate_draw_and_resume(tmp_path: Path) -> None:
    images, things = [], []
    for i in range(1, 4):
        pixels = np.random.default_rng(i).integers(0, 255, (96, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.tif", tiffinfo={274: 6})  # upright: 96 wide, 64 high
        images.append({"id": i, "file_name": f"{i}.tif", "width": 96, "height": 64})
        things.append({"id": i, "image_id": i, "category_id": 1, "bbox": [50, 10, 40, 30], "area": 1200, "iscrowd": 0})
    content = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "tile"}]}
    (tmp_path / "tiles.json").write_text(json.dumps(content))
    spec = f"coco:{tmp_path}/tiles.json:{tmp_path}"
    out = tmp_path / "out"
    words = ("--train-data", spec, "--test-data", spec, "OUTPUT_DIR", str(out), *TINY, "MODEL.MASK_ON", "False")
    done = run_tool_here("train_net.py", *RANDOM, *words)
    assert done.returncode == 0, done.stderr
    samples = json.loads((out / "samples.json").read_text())["images"]
    assert [(sample["width"], sample["height"]) for sample in samples] == [(96, 64)] * 3
    (out / "samples.json").unlink()
    again = run_tool_here("train_net.py", *RANDOM, "--resume", *words)
    assert again.returncode == 0 and (out / "samples.json").exists() and record(out).status == "done", again.stderr


@pytest.mark.slow
def test_two_processes_evaluate_data_that_only_the_first_has_read(demo: Path, trained: Path, tmp_path: Path) -> None:
    """The annotations are gone by the time that the workers start; their figure is that of one process."""
    own = Path(shutil.copytree(demo / "voc", tmp_path / "voc"))
    weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"), "MODEL.DEVICE", "cpu", *TINY)
    given = {"config_file": FAMILY, "eval_only": True, "test_data": f"voc:{own}:test", "num_processes": 2}
    figures = {}
    for name in ("alone", "together"):
        options = RunOptions(overrides=("OUTPUT_DIR", str(tmp_path / name), *weights), **given)
        prepared = prepare_run(options)
        Path(prepared.config.OUTPUT_DIR).mkdir()
        if name == "alone":
            run_detection(prepared)
        else:
            shutil.rmtree(own / "Annotations")
            shutil.rmtree(own / "ImageSets")
            launch(worker, 2, 1, 0, "auto", args=(prepared,))
        figures[name] = record(tmp_path / name).figures
    assert figures["alone"] == figures["together"] and record(tmp_path / "together").status == "done"


# --- Detectron2's own tool --------------------------------------------------------------------------------------------


def stock_layout(demo: Path, root: Path) -> Path:
    """The demo's scenes as coco_2017_train and coco_2017_val: COCO's eighty classes, the folders that Detectron2 expects."""
    things = [entry for entry in COCO_CATEGORIES if entry["isthing"]]
    categories = [{"id": entry["id"], "name": entry["name"]} for entry in things]
    (root / "coco" / "annotations").mkdir(parents=True)
    for ours, theirs in (("train", "train2017"), ("test", "val2017")):
        content = json.loads((demo / "coco" / "annotations" / f"instances_{ours}.json").read_text())
        content["categories"] = categories
        (root / "coco" / "annotations" / f"instances_{theirs}.json").write_text(json.dumps(content))
        (root / "coco" / theirs).symlink_to(demo / "coco" / ours)
    return root


STOCK_TINY = (
    *("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "TEST.PRECISE_BN.NUM_ITER", "1"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "10"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8", "SOLVER.BASE_LR", "1e-4", "INPUT.MASK_FORMAT", "bitmask"),
)


@pytest.mark.slow
@pytest.mark.skipif(not STOCK.is_file(), reason="this Detectron2 came without its train_net.py")
def test_a_dumped_configuration_trains_converted_weights_under_detectron2s_own_tool(demo: Path, tmp_path: Path) -> None:
    """Its tool has no guard of its own: what it loaded is compared with the file here."""
    from detectron2.modeling import build_model

    torch.manual_seed(1)
    config = load_detector_config(resolve_config_path("coco/R_50_FPN_1x.yaml"), ["MODEL.DEVICE", "cpu"])
    state = build_model(config).state_dict()
    converted = {
        name.removeprefix("backbone.bottom_up."): value + 1e-3 for name, value in state.items() if ".bottom_up." in name
    }
    weights, path = tmp_path / "w.pth", tmp_path / "stock.yaml"
    torch.save({"model": converted, "matching_heuristics": True, "__author__": "tests"}, weights)
    write_sidecar(weights, "resnet50")
    asked = ("--config-file", "coco/R_50_FPN_1x.yaml", "--init", f"mine={weights}", "--dump-config", str(path))
    assert run_tool_here("train_net.py", *asked).returncode == 0
    frozen = (
        "SOLVER.BASE_LR",
        "0.0",
        "SOLVER.MAX_ITER",
        "1",
        "SOLVER.WEIGHT_DECAY",
        "0.0",
        "SOLVER.WEIGHT_DECAY_NORM",
        "0.0",
    )
    done = run(
        *(
            "--config-file",
            str(path),
            "OUTPUT_DIR",
            str(tmp_path / "out"),
            *STOCK_TINY,
            *frozen,
        ),
        tool=STOCK,
        DETECTRON2_DATASETS=str(stock_layout(demo, tmp_path / "datasets")),
        PYTHONPATH="",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    after = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    for name, value in converted.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):  # a forward pass moves those
            assert torch.equal(after[f"backbone.bottom_up.{name}"], value), name


def dumped(path: Path, *words: str) -> tuple[list[str], CfgNode]:
    """The header of what --dump-config writes, and the configuration as Detectron2's own reader has it."""
    done = run_tool_here("train_net.py", "--dump-config", str(path), *words)
    assert done.returncode == 0, done.stderr
    config = get_cfg()
    config.merge_from_file(str(path))
    return [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")], config


@pytest.mark.parametrize("family", ["coco/R_50_FPN_1x.yaml", "voc/R_50_C4_24k.yaml"])
def test_detectron2s_own_reader_takes_a_dumped_configuration_with_every_value(tmp_path: Path, family: str) -> None:
    words = ("SOLVER.BASE_LR", "0.005")
    header, found = dumped(tmp_path / "a.yaml", "--config-file", family, "--init", "supervised=msra_r50", *words)
    wanted = load_detector_config(resolve_config_path(family), words)
    apply_init(wanted, parse_init("supervised=msra_r50"), frozenset())
    as_json = [
        json.loads(json.dumps(plain_values(config))) for config in (found, wanted)
    ]  # YAML knows no tuple in a tuple
    assert as_json[0] == as_json[1] and found.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]  # nothing else is written
    assert any("DETECTRON2/tools/train_net.py --config-file" in line for line in header)
    # Detectron2 alone has no such head, which the file says; without it there is nothing to say.
    assert any("`import transfer`" in line for line in header) is ("C4" in family)


def test_a_dumped_configuration_of_ones_own_data_says_how_to_register_them(demo: Path, tmp_path: Path) -> None:
    header, found = dumped(tmp_path / "a.yaml", *RANDOM, *data(demo, "coco"))
    (line,) = [line for line in header if found.DATASETS.TRAIN[0] in line]
    assert line.strip().startswith("register_coco_instances(") and "instances_train.json" in line
    assert found.MODEL.ROI_HEADS.NUM_CLASSES == 8 and found.SEED == 0
    header, _ = dumped(tmp_path / "b.yaml", *RANDOM, *data(demo, "voc"))
    assert any("DatasetCatalog.register" in line for line in header)
