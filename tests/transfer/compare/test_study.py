"""Studies: what is refused, the driver on fake commands (tests/transfer/fake_tools.py), figures and verdicts."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from tests.transfer.fake_tools import write_tools
from transfer.compare.choices import apply_choices, choose
from transfer.compare.runner import open_folder
from transfer.compare.stages import ROOT, Stage
from transfer.compare.study import run_study, show_study
from transfer.compare.study_config import Expectation, StudyConfig, load_study
from transfer.compare.study_data import prepare_data
from transfer.compare.study_figures import (
    Scores,
    Verdict,
    differences_to,
    format_cell,
    format_table,
    judge,
)
from transfer.compare.study_plan import plan_study

FAKE_TOOL = """
if tool == "make_demo_data":
    write(after("--output-dir") + "/dataset.json", {})
elif tool == "pretrain":
    (root / "resumed").touch() if (pathlib.Path(after("--output-dir")) / "half.pt").exists() else None
    write(after("--output-dir") + "/result.json", {"checkpoint": "checkpoints/step_5.pt"})
elif tool == "convert_weights":
    write(words[1], {})
elif tool == "linear_eval":
    seed = int(words[-1].removeprefix("seed="))
    top1 = {"random": 30.0 + seed, "infomin": 50.0 + 2 * seed}[after("--init-name")]
    write(after("--output-dir") + "/linear_result.json", readout(top1))
elif tool == "train_net":
    seed = int(after("SEED"))
    ap = {"random": 10.0 + 2 * seed, "infomin": 12.0 + 2.2 * seed}[after("--init").partition("=")[0]]
    metrics = {"bbox": {"AP": ap / 2, "AP50": ap, "AP75": ap / 4}, "segm": {"AP": None, "AP50": ap - 1}}
    write(after("OUTPUT_DIR") + "/result.json", detection(metrics))
elif tool == "report":
    write(after("--output") + "/index.html", {})
"""
TOOLS = ("make_demo_data", "pretrain", "convert_weights", "linear_eval", "train_net", "report")
STUDY = """
data: {{arguments: [--num-unlabelled, "4"]}}
pretrain: {{config_file: {root}/pretrain.yaml, overrides: ["data.root={{data}}/unlabelled"]}}
inits: [{{name: random, weights: none}}, {{name: infomin, weights: pretrained}}]
detect: {{config_file: "{root}/detect.yaml", train_data: "coco:{{data}}/a:b", test_data: "coco:{{data}}/c:d", seeds: [0, 1]}}
readout: {{data: "{{data}}/unlabelled", arch: resnet18}}
expect:
  - {{metric: bbox/AP50, higher: infomin, lower: random}}
  - {{metric: readout/top1, higher: infomin, lower: random, margin: 25}}
"""


class Bench:
    """A project of fake tools, and a study on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root, root / "runs" / "out"
        write_tools(root, TOOLS, FAKE_TOOL)
        (root / "base.yaml").write_text("SOLVER: {MAX_ITER: 5}\n")
        (root / "pretrain.yaml").write_text("base: smoke.yaml\n")
        (root / "detect.yaml").write_text("_BASE_: [base.yaml]\n")
        (root / "study.yaml").write_text(STUDY.format(root=root))
        self.messages: list[str] = []

    def config(self, *overrides: str) -> StudyConfig:
        """The study, with overrides."""
        return load_study(self.root / "study.yaml", overrides)

    def run(self, *overrides: str) -> tuple[int, tuple[Verdict, ...], list[str]]:
        """Run the study -> exit code, verdicts, names of the tools that were called."""
        (self.root / "calls.txt").write_text("")
        self.messages, self.out = [], io.BytesIO()
        code, verdicts = run_study(
            self.config(*overrides), self.output, say=self.messages.append, out=self.out, root=self.root, devices=()
        )
        return code, verdicts, [line.split()[0] for line in self.calls()]

    def calls(self) -> list[str]:
        """The fake tools' command lines of the last run."""
        return (self.root / "calls.txt").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path, commands_run_here: None, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("transfer.compare.study_settle.check_study", lambda *arguments: ())  # its detectors are fake
    return Bench(tmp_path)


def plan_of(config: StudyConfig, output: Path) -> tuple[Stage, ...]:
    """The plan of a study on the embedded data set."""
    chosen = choose(config, train=None, pool_size=None, on_gpu=False)
    return plan_study(apply_choices(config, chosen), prepare_data(config, output).data)


def test_every_stage_runs_once_and_the_table_shows_the_planted_figures(bench: Bench) -> None:
    code, verdicts, tools = bench.run()
    assert code == 0
    assert tools == [
        "make_demo_data",
        "pretrain",
        "convert_weights",
        *["linear_eval"] * 2,
        *["train_net"] * 4,
        "report",
    ]
    table = "\n".join(bench.messages)
    # seeds 0 and 1: AP50 10, 12 and 12, 14.2; mean ± sample deviation. Paired: 2.0 and 2.2, t(0.975, 1) = 12.71
    assert "11.0 ± 1.4 (2)" in table and "13.1 ± 1.6 (2)" in table and "50.0 (1)" in table
    assert [verdict.outcome for verdict in verdicts] == ["held", "undecided"]
    assert "held: box AP50: infomin above random (difference +2.1, 95 % interval +0.8 to +3.4, n = 2)" in bench.messages
    assert (
        "undecided: readout top-1: infomin above random by more than 25 (difference +20.0, n = 1, which gives no interval)"
        in bench.messages
    )
    assert "readout top-1, infomin against random: one seed (difference +20.0, n = 1, which gives no interval)" in table
    assert bench.messages[-1].startswith(f"report: {bench.output}/report/index.html")
    saved = json.loads((bench.output / "study.json").read_text())
    assert saved["scores"]["bbox/AP50"]["infomin"] == {"0": 12.0, "1": 14.2}
    difference = saved["differences"]["bbox/AP50"]["infomin"]
    assert (difference["n"], difference["verdict"], difference["level"]) == (2, "higher", 0.95)
    assert difference["interval"] == pytest.approx([2.1 - 1.27062, 2.1 + 1.27062], abs=1e-4)
    assert [entry["outcome"] for entry in saved["expectations"]] == ["held", "undecided"]


def test_the_checkpoint_comes_from_the_result_of_pre_training_and_reaches_the_detector_converted(bench: Bench) -> None:
    bench.run()
    (convert,) = [line for line in bench.calls() if line.startswith("convert_weights")]
    weights = f"{bench.output}/weights/seed0/pretrained.pth"
    assert f"{bench.output}/pretrain/seed0/checkpoints/step_5.pt {weights}" in convert
    detections = [line for line in bench.calls() if line.startswith("train_net")]
    assert [f"--init infomin={weights} " in line for line in detections] == [False, True] * 2


def test_a_second_run_reuses_every_stage(bench: Bench) -> None:
    _, first, _ = bench.run()
    code, second, tools = bench.run()
    assert (code, tools, second) == (0, [], first)
    assert sum("done already" in line for line in bench.messages) == len(plan_of(bench.config(), bench.output))


def test_a_changed_base_of_the_detector_s_family_reruns_only_what_depends_on_it(bench: Bench) -> None:
    bench.run()
    (bench.root / "base.yaml").write_text("SOLVER: {MAX_ITER: 6}\n")
    assert bench.run()[2] == ["train_net"] * 4 + ["report"]


def test_a_changed_pre_training_reruns_what_is_downstream_and_starts_in_an_empty_folder(bench: Bench) -> None:
    bench.run()
    (bench.output / "pretrain" / "seed0" / "half.pt").touch()
    _, _, tools = bench.run("pretrain.overrides=[optimizer.epochs=2]")
    assert tools == ["pretrain", "convert_weights", "linear_eval", "train_net", "train_net", "report"]
    assert not (bench.root / "resumed").exists()
    assert bench.run("pretrain.overrides=[optimizer.epochs=2]")[2] == []


def test_a_lost_result_is_made_again_and_so_is_all_that_came_from_it(bench: Bench) -> None:
    bench.run()
    (bench.output / "weights" / "seed0" / "pretrained.pth").unlink()
    assert bench.run()[2] == ["convert_weights", "linear_eval", "train_net", "train_net", "report"]


def test_another_seed_adds_to_what_is_there(bench: Bench) -> None:
    bench.run()
    assert bench.run("detect.seeds=[0,1,2]")[2] == ["train_net", "train_net", "report"]


def test_a_failed_stage_stops_the_study_with_its_code_and_the_command_to_repeat(bench: Bench) -> None:
    (bench.root / "break_convert_weights").touch()
    code, verdicts, tools = bench.run()
    assert (code, verdicts, tools[-1]) == (7, (), "convert_weights")
    text = "\n".join(bench.messages)
    assert "FAILED" in text and "exit code 7" in text
    log = bench.output / "logs" / "convert-seed0.log"
    assert str(log) in text and log.read_text() == "hello from convert_weights\n"
    command = next(line for line in bench.messages if "to repeat" in line).split("to repeat")[1]
    assert subprocess.run(command, shell=True, capture_output=True).returncode == 7
    (bench.root / "break_convert_weights").unlink()
    code, _, tools = bench.run()
    assert (code, tools[0]) == (0, "convert_weights")  # what was done before is kept


def test_a_command_that_ends_well_without_its_result_is_a_failure(bench: Bench) -> None:
    (bench.root / "tools" / "make_demo_data.py").write_text("")
    assert bench.run()[0] == 1
    assert "dataset.json although its exit code is 0" in "\n".join(bench.messages)


def test_the_table_is_shown_even_when_only_the_report_fails(bench: Bench) -> None:
    (bench.root / "break_report").touch()
    assert bench.run()[0] == 7
    assert "13.1 ± 1.6 (2)" in "\n".join(bench.messages)
    assert bench.messages[-1].startswith("report: none")


def test_output_is_shown_and_logged(bench: Bench) -> None:
    bench.run()
    assert bench.out.getvalue().startswith(b"hello from make_demo_data\nhello from pretrain\n")
    assert (bench.output / "logs" / "pretrain-seed0.log").read_text() == "hello from pretrain\n"


def test_a_folder_that_the_study_did_not_make_is_never_emptied(bench: Bench) -> None:
    (bench.output / "data").mkdir(parents=True)
    precious = bench.output / "data" / "precious.jpg"
    precious.touch()
    with pytest.raises(ConfigError, match="did not make"):
        bench.run()
    assert precious.exists()


def test_a_plan_shows_commands_and_writes_nothing(bench: Bench) -> None:
    messages: list[str] = []
    show_study(bench.config(), bench.output, say=messages.append, root=bench.root, devices=())
    assert not bench.output.exists()
    assert sum(line.startswith("$ ") for line in messages) == len(plan_of(bench.config(), bench.output))


DRIVER = """
import pathlib, sys
from pretrain.base.errors import run_tool
from transfer.compare import study, study_settle
from transfer.compare.study_config import load_study
study_settle.check_study = lambda *arguments: ()
root = pathlib.Path(sys.argv[1])
config = load_study(root / "study.yaml")
run_tool(lambda: study.run_study(config, root / "runs" / "out", say=print, out=sys.stdout.buffer, root=root, devices=())[0])
"""


def interrupt(bench: Bench, tool: str, signum: int) -> int:
    """Run the study in a process of its own, send it a signal while `tool` runs -> exit code."""
    (bench.root / f"slow_{tool}").touch()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, "-c", DRIVER, str(bench.root)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (bench.root / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signum)
    code = process.wait(timeout=60)
    (bench.root / f"slow_{tool}").unlink()
    return code


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_pre_training_is_asked_to_save_and_the_next_run_resumes_it(bench: Bench, signum: int, code: int) -> None:
    assert interrupt(bench, "pretrain", signum) == code
    assert (bench.root / "asked_to_stop").read_text() == str(int(signal.SIGTERM))
    assert bench.run()[2][0] == "pretrain"  # the data set is reused
    assert (bench.root / "resumed").exists()


@pytest.mark.slow
def test_a_stage_that_cannot_resume_is_interrupted_and_starts_in_an_empty_folder(bench: Bench) -> None:
    assert interrupt(bench, "linear_eval", signal.SIGTERM) == 143
    assert (bench.root / "asked_to_stop").read_text() == str(int(signal.SIGINT))
    assert bench.run()[2][0] == "linear_eval"
    assert not list(bench.output.rglob("half.pt"))


def test_a_second_study_in_the_same_folder_is_refused(bench: Bench) -> None:
    with open_folder(bench.output), pytest.raises(ConfigError, match="in use"):
        bench.run()


# --- the file --------------------------------------------------------------------------------------------------------

OTHERS_DATA = ("own_data", "caltech_bccd", "caltech_coco")  # they name images that a checkout does not hold
SHIPPED = sorted(path for path in (ROOT / "configs" / "study").glob("*.yaml") if path.stem not in OTHERS_DATA)
SMALLEST = """
data: {}
inits: [{name: random, weights: none}, {name: a, weights: none}, {name: b, weights: none}]
readout: {data: "{data}/unlabelled", arch: resnet18}
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_study_loads_and_plans(path: Path, tmp_path: Path) -> None:
    assert plan_of(load_study(path), tmp_path)[-1].name == "report"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_expectation_has_seeds_to_be_decided_on(path: Path) -> None:
    config = load_study(path)
    for expectation in config.expect:
        part = config.readout if expectation.metric.startswith("readout/") else config.detect
        assert part is not None and len(part.seeds) >= 3


def test_the_study_expects_infomin_above_random_in_box_ap() -> None:
    config = load_study(ROOT / "configs" / "study" / "study.yaml")
    assert ("bbox/AP50", "infomin", "random") in [(e.metric, e.higher, e.lower) for e in config.expect]


def test_the_baseline_is_named_for_the_report_and_the_differences(bench: Bench) -> None:
    bench.run("baseline=infomin")
    assert bench.calls()[-1].endswith("--baseline infomin")
    saved = json.loads((bench.output / "study.json").read_text())
    assert saved["baseline"] == "infomin" and saved["differences"]["bbox/AP50"]["random"]["verdict"] == "lower"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("redout.data=x", "did you mean `readout`"),
        ("inits=[{name: a/b, weights: none}]", "letters, digits"),
        ("inits=[{name: a, weights: none}, {name: a, weights: none}]", "different names"),
        ("inits=[]", "one or more"),
        ("inits=[{name: a, weights: pretrained}]", "need a `pretrain` part"),
        ("inits=[{name: a, weights: nowhere.pth}]", "no file at"),
        ("readout.seeds=[1,1]", "seeds"),
        ("readout.seeds=[]", "seeds"),
        ("readout.data='{dta}/x'", "found {dta}"),
        ("data=null", "no `data` part"),
        ("readout.config_file=configs/linear/absent.yaml", "no configuration file at"),
        ("readout=null", "nothing to measure"),
        ("pretrain={config_file: configs/pretrain/absent.yaml}", "no configuration file at"),
        ("expect=[{metric: box/AP, higher: random, lower: random}]", "expected one of bbox/AP"),
        ("expect=[{metric: bbox/AP, higher: random, lower: other}]", "'other'"),
        ("expect=[{metric: bbox/AP, higher: a, lower: b}]", "not measured"),
        ("expect=[{metric: readout/top1, higher: random, lower: random}]", "compared with itself"),
        ("expect=[{metric: readout/top1, higher: random, lower: random, every_seed: true}]", "every_seed"),
        ("baseline=infomin", "baseline: expected one of the inits"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(SMALLEST)
    load_study(path)  # the control: sound without the override
    with pytest.raises(ConfigError, match=message):
        load_study(path, [override])


# --- the figures -----------------------------------------------------------------------------------------------------


def of_seeds(*figures: float, pretraining: int | None = None) -> dict[tuple[int | None, int], float]:
    """Figures of the seeds 0, 1, ... of one pre-training, or of none."""
    return {(pretraining, seed): figure for seed, figure in enumerate(figures)}


SCORES: Scores = {"bbox/AP50": {"random": of_seeds(10.0, 20.0), "infomin": of_seeds(12.0, 19.0)}}


def test_cells_show_mean_sample_deviation_and_number() -> None:
    assert format_cell([20.0, 22.0, 24.0]) == "22.0 ± 2.0 (3)"
    assert format_cell([20.0]) == "20.0 (1)"
    assert format_cell([]) == "-"


def test_columns_line_up_and_what_was_not_measured_has_none() -> None:
    lines = format_table(SCORES, ["random", "infomin"]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "AP50" in lines[0] and "mask" not in lines[0] and "readout" not in lines[0]
    assert lines[2].split() == ["random", "15.0", "±", "7.1", "(2)"]


# infomin - random in three seeds: 5.0, 5.5, 4.5, so 5.0 with a 95 % interval of 4.303 * 0.5 / sqrt(3) = 1.24 on each side
PAIRED: Scores = {
    "bbox/AP50": {"random": of_seeds(10.0, 20.0, 14.0), "infomin": of_seeds(15.0, 25.5, 18.5)},
    "readout/top1": {"random": of_seeds(30.0), "infomin": of_seeds(90.0)},
}


@pytest.mark.parametrize(
    ("margin", "outcome"),
    [(0.0, "held"), (3.7, "held"), (3.8, "undecided"), (6.2, "undecided"), (6.3, "FAILED")],
)
def test_an_expectation_is_held_or_failed_only_where_all_of_the_interval_is_on_one_side(
    margin: float, outcome: str
) -> None:
    verdict = judge(Expectation("bbox/AP50", higher="infomin", lower="random", margin=margin), [PAIRED])
    assert verdict.outcome == outcome and verdict.held is (outcome == "held")
    assert verdict.line().startswith(f"{outcome}: box AP50: infomin above random") and "n = 3" in verdict.line()


def test_the_expectation_of_the_opposite_fails() -> None:
    assert judge(Expectation("bbox/AP50", higher="random", lower="infomin"), [PAIRED]).outcome == "FAILED"


def test_one_seed_decides_nothing_however_large_the_difference() -> None:
    verdict = judge(Expectation("readout/top1", higher="infomin", lower="random"), [PAIRED])
    assert verdict.outcome == "undecided" and "n = 1" in verdict.line()


def test_seeds_of_fine_tuning_alone_decide_nothing_about_pretrainings_that_differ() -> None:
    """Each pre-training is far above random in every seed, but by amounts that differ: averaged over them the seeds agree to 0.2."""
    random = of_seeds(10.0, 10.1, 9.9)
    mine = {
        key: value
        for p, by in enumerate((2.0, 9.0, 30.0))
        for key, value in of_seeds(10 + by, 10.1 + by, 9.9 + by, pretraining=p).items()
    }
    verdict = judge(
        Expectation("bbox/AP50", higher="infomin", lower="random"), [{"bbox/AP50": {"random": random, "infomin": mine}}]
    )
    assert verdict.outcome == "undecided" and "3 pre-trainings x 3 seeds" in verdict.line()


def test_a_win_in_every_one_of_three_seeds_is_no_proof() -> None:
    scores: Scores = {"bbox/AP50": {"random": of_seeds(10.0, 10.0, 10.0), "infomin": of_seeds(10.1, 14.0, 10.5)}}
    verdict = judge(Expectation("bbox/AP50", higher="infomin", lower="random"), [scores])
    assert verdict.outcome == "undecided" and verdict.difference is not None and verdict.difference.wins == 3


def test_a_missing_seed_or_metric_is_not_a_success() -> None:
    wanted = Expectation("bbox/AP50", higher="infomin", lower="random", margin=-100)
    for scores in ({"bbox/AP50": {"random": of_seeds(1.0), "infomin": of_seeds(2.0, 2.0)}}, {}):
        verdict = judge(wanted, [scores])
        assert verdict.outcome == "undecided" and "missing" in verdict.line()


def test_of_three_initialisations_each_interval_is_wider_than_of_two() -> None:
    rows = {"random": of_seeds(10.0, 20.0, 14.0), "a": of_seeds(15.0, 25.5, 18.5), "b": of_seeds(16.0, 25.5, 18.0)}
    alone = differences_to("random", {"bbox/AP50": {name: rows[name] for name in ("random", "a")}})
    both = differences_to("random", {"bbox/AP50": rows})
    assert set(both["bbox/AP50"]) == {"a", "b"} and both["bbox/AP50"]["a"].level == 0.975
    first, second = alone["bbox/AP50"]["a"].half_width, both["bbox/AP50"]["a"].half_width
    assert first is not None and second is not None and second > first


def test_a_figure_that_could_not_be_computed_is_left_out(bench: Bench) -> None:
    bench.run()
    assert "segm/AP" not in json.loads((bench.output / "study.json").read_text())["scores"]


def test_runs_on_data_that_changed_in_between_are_not_averaged(bench: Bench) -> None:
    bench.run("detect.seeds=[0]")
    tool = bench.root / "tools" / "train_net.py"
    tool.write_text(tool.read_text().replace('{"train": "fake"}', '{"train": "edited"}'))
    _, verdicts, tools = bench.run()
    assert tools.count("train_net") == 2  # seed 1 alone: the command of seed 0 is the same
    (line,) = [line for line in bench.messages if line.startswith("NOT AVERAGED")]
    old, new = re.findall(r"\[(\w{8})\]", line)[:2]
    assert f"data.train: 'fake' in [{old}], 'edited' in [{new}]" in line
    scores = json.loads((bench.output / "study.json").read_text())["scores"]["bbox/AP50"]
    assert scores[f"random [{old}]"] == {"0": 10.0} and scores[f"random [{new}]"] == {"1": 12.0} and len(scores) == 4
    assert verdicts[0].outcome == "undecided" and "several experiments" in verdicts[0].line()


def test_an_expectation_and_the_table_judge_by_the_same_interval(bench: Bench) -> None:
    third = "{name: other, weights: none}"
    for tool in ("linear_eval", "train_net"):
        path = bench.root / "tools" / f"{tool}.py"
        path.write_text(path.read_text().replace('{"random": ', '{"other": 1.0, "random": '))
    inits = f"inits=[{{name: random, weights: none}}, {{name: infomin, weights: pretrained}}, {third}]"
    _, verdicts, _ = bench.run(inits)
    (row,) = [line for line in bench.messages if line.startswith("box AP50, infomin against random")]
    assert verdicts[0].difference is not None and verdicts[0].difference.level == 0.975
    assert "97.5 % interval" in row and row.rpartition("interval ")[2] in verdicts[0].line() + ")"
