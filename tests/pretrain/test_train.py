"""The loop: resuming is exact at every step, no part of the state can be dropped unnoticed, nothing bad is saved."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
import yaml

from pretrain import train as train_module
from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, DataError, Terminated, UserError
from pretrain.base.record import experiment_hash, read_record
from pretrain.config import to_plain
from pretrain.data.loader import ViewBatch
from pretrain.data.stream import open_stream
from pretrain.model.contrast import Contrast
from pretrain.run.checkpoint import checkpoint_path, pretraining_of, read_checkpoint
from pretrain.run.folder import RunDir
from pretrain.run.precision import Precision, choose_precision
from pretrain.run.ranks import Ranks, start_ranks, stop_ranks
from pretrain.run.recorder import Recorder
from pretrain.run.watch import Watch
from pretrain.state import TrainState, build_state, state_for
from pretrain.train import train, train_step

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
CPU = torch.device("cpu")


def state_hash(path):
    """sha256 over every tensor of model and optimiser, names included."""
    state = read_checkpoint(path)
    digest = hashlib.sha256()
    momenta = {str(key): value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
    for name, tensor in sorted({**state["model"], **momenta}.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def final_hash(directory):
    return state_hash(checkpoint_path(directory / "checkpoints", STEPS))


def run(config, directory, *, resume=False):
    return train(config, output_dir=directory, resume=resume, ranks=Ranks())


@pytest.fixture(scope="module")
def tiny_config(tiny_config):
    """The session's, of a smaller encoder: most of the time goes into writing checkpoints."""
    return partial(tiny_config, encoder={"arch": "resnet18_half"})


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, tiny_config):
    """A run of six steps that kept the checkpoint of each, and its configuration."""
    config = tiny_config(runtime={"checkpoint_every_steps": 1})
    directory = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "prune_checkpoints", lambda *args, **kwargs: None)
        run(config, directory)
    return directory, config


def cut_at(whole, step, directory):
    """A copy of the run as a kill right after the checkpoint of `step` would have left it."""
    shutil.copytree(whole, directory)
    path = directory / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    for path in (directory / "checkpoints").iterdir():
        if path != checkpoint_path(directory / "checkpoints", step):
            path.unlink()
    return directory


@pytest.mark.slow
def test_worker_processes_change_nothing(tiny_config, tmp_path):
    for workers in (0, 2):
        run(tiny_config(data={"num_workers": workers}, optimizer={"epochs": 1}), tmp_path / str(workers))
    hashes = {state_hash(checkpoint_path(tmp_path / str(workers) / "checkpoints", 2)) for workers in (0, 2)}
    assert len(hashes) == 1


class Stopped(train_module.StopFlag):
    """SIGTERM has come before the first step is done."""

    def __init__(self):
        super().__init__()
        self.is_set = True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_signal_saves_the_step_and_says_so(tiny_config, tmp_path, monkeypatch, number, code):
    step = Contrast.step

    def stopped(self, batch, **rest):
        os.kill(os.getpid(), number)
        return step(self, batch, **rest)

    monkeypatch.setattr(Contrast, "step", stopped)
    with pytest.raises(Terminated, match="saved at step 1 of 6; give the same command again") as stop:
        run(tiny_config(), tmp_path)
    assert stop.value.exit_code == code
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001.pt"]


def test_a_stop_signal_before_the_first_step_is_waited_for_and_recorded(tiny_config, tmp_path, monkeypatch):
    def stopped(*args, **rest):
        os.kill(os.getpid(), signal.SIGTERM)
        return state_for(*args, **rest)

    monkeypatch.setattr(train_module, "state_for", stopped)
    with pytest.raises(Terminated, match="saved at step 1 of 6"):
        run(tiny_config(), tmp_path)
    assert read_record(tmp_path / "record.json").status == "stopped"


@pytest.mark.slow
def test_a_record_goes_on_with_its_run(tiny_config, image_folder, tmp_path, monkeypatch):
    config = tiny_config()
    with monkeypatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(train_module, "StopFlag", Stopped)
        run(config, tmp_path / "run")
    path = tmp_path / "run" / "record.json"
    stopped = read_record(path)
    assert (stopped.status, stopped.cost.images, stopped.figures) == ("stopped", 8, {})
    assert stopped.data["images"].num_images == 18 and stopped.data["images"].spec == str(image_folder)
    run(config, tmp_path / "run", resume=True)
    done = read_record(path)
    assert (done.status, done.cost.images, len(done.commands)) == ("done", 8 * STEPS, 2)
    assert done.cost.device_seconds == done.cost.seconds > stopped.cost.seconds
    assert (
        done.figures["loss"] is not None
        and "InfoNCE" in done.metric
        and done.details["checkpoint"] == "checkpoints/step_00000006.pt"
    )
    states = [read_checkpoint(checkpoint) for checkpoint in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    of_last, of_earlier = (pretraining_of(state, sha256="")["hash"] for state in (states[-1], states[-2]))
    assert of_last == done.hash == stopped.hash != of_earlier
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == {
        "config.yaml", "record.json", "images.json", "log.jsonl", "views.png", "checkpoints", "tensorboard", "run.lock"
    }  # fmt: skip


def test_an_experiment_is_configuration_and_images_and_not_seed_or_place(tiny_config, image_folder, tmp_path):
    def hash_of(**over):
        config = tiny_config(**over)
        stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
        return experiment_hash(train_module.new_record(config, stream).experiment)

    copy = shutil.copytree(image_folder, tmp_path / "copy")
    same = [
        {"seed": 1},
        {"data": {"root": str(copy), "num_workers": 2}},
        {"data": {"skip_unreadable": True}},
        {"runtime": {"checkpoint_every_steps": 1, "log_every_steps": 2, "precision": "auto"}},
    ]
    assert {hash_of(**over) for over in same} == {hash_of()}
    other = [{"optimizer": {"learning_rate": 0.1}}, {"method": {"momentum": 0.7}}, {"views": {"image_size": 33}}]
    assert len({hash_of(), *(hash_of(**over) for over in other)}) == 4
    (copy / "000.png").unlink()
    assert hash_of(data={"root": str(copy)}) != hash_of()


@dataclass
class Steps:
    """Step after step of a tiny run, without a folder."""

    state: TrainState
    watch: Watch
    batch: ViewBatch
    accumulate: int = 1

    def take(self):
        precision = choose_precision("fp32", torch.device("cpu"))
        return train_step(
            self.state,
            self.batch,
            learning_rate=0.03,
            momentum=0.9,
            precision=precision,
            ranks=Ranks(),
            watch=self.watch,
            accumulate=self.accumulate,
        )


@pytest.fixture
def steps(tiny_config):
    """Function: late -> Steps."""

    def build(*, late=False):
        config, cpu = tiny_config(), torch.device("cpu")
        state = build_state(config, InputContract(), precision=choose_precision("fp32", cpu), ranks=Ranks())
        stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
        batch = next(stream.batches(from_step=0, num_steps=1))
        return Steps(state, Watch(train_module.StopFlag(), Ranks(), cpu, late=late), batch)

    return build


def model_of(state):
    return {name: value.clone() for name, value in state.method.state_dict().items()}


def is_statistic(name):
    return "running_" in name or "num_batches" in name


def test_a_loss_that_is_not_finite_moves_nothing_but_batchnorm_s_statistics(steps):
    tried = steps()
    memory = tried.state.method.memory
    with torch.no_grad():
        memory.features[0, 0] = float("nan")
    before = model_of(tried.state)
    with pytest.raises(UserError, match="the loss is not finite at step 0 .*samples of this rank") as refusal:
        tried.take()
    assert "nothing was updated" not in str(refusal.value)
    after = model_of(tried.state)
    moved = {name for name in before if not torch.equal(before[name].nan_to_num(), after[name].nan_to_num())}
    assert moved and all(is_statistic(name) for name in moved)
    assert tried.state.step == 0
    with torch.no_grad():  # control: the same step with the NaN gone does update
        memory.features[0] = memory.features[1]
    tried.take()
    assert not torch.equal(before["query.encoder.conv1.weight"], model_of(tried.state)["query.encoder.conv1.weight"])


@pytest.mark.slow
def test_read_late_a_loss_that_is_not_finite_reaches_no_queue_and_stops_the_next_step(steps):
    tried = steps(late=True)
    memory = tried.state.method.memory
    tried.take()
    kept = memory.features[8:].clone()
    with torch.no_grad():
        tried.state.method.query.head.layers[0].weight[0, 0] = float("nan")
        tried.state.method.key.head.layers[0].weight[0, 0] = float("nan")
    tried.take()  # its keys are NaN
    assert torch.equal(memory.features[8:], kept)
    with pytest.raises(UserError, match="the loss is not finite at step 1 "):
        tried.take()


@pytest.mark.slow
def test_read_late_the_steps_are_the_same(whole_run, tmp_path, monkeypatch):
    whole, config = whole_run
    monkeypatch.setattr(train_module, "Watch", partial(Watch, late=True))
    run(config, tmp_path / "late")
    assert final_hash(tmp_path / "late") == final_hash(whole)


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_meets_a_bad_loss_names_its_last_checkpoint_and_leaves_it(whole_run, tmp_path, monkeypatch, late):
    whole, _ = whole_run
    step = Contrast.step

    def bad_in_the_fourth(self, batch, **rest):
        output = step(self, batch, **rest)
        return dataclasses.replace(output, loss=output.loss * float("nan")) if rest["step"] == 3 else output

    monkeypatch.setattr(train_module, "Watch", partial(Watch, late=late))
    monkeypatch.setattr(Contrast, "step", bad_in_the_fourth)
    with pytest.raises(UserError, match="not finite at step 3 .*newest checkpoint is that of step 3 of 6"):
        run(whole_run[1], tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step_00000002.pt", "step_00000003.pt"]
    record = read_record(tmp_path / "run" / "record.json")
    assert record.status == "failed" and "not finite at step 3" in record.error
    path = checkpoint_path(tmp_path / "run" / "checkpoints", 3)
    assert state_hash(path) == state_hash(checkpoint_path(whole / "checkpoints", 3))
    logged = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert logged == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["", "key network and queue once a micro-batch"])  # the fault of a published library
def test_accumulated_micro_batches_are_one_step_of_the_whole_batch(steps, monkeypatch, fault):
    """BatchNorm in evaluation mode, so that images do not see each other."""
    after = Contrast.after_step

    def each(self, outputs, **rest):
        for output in outputs:
            after(self, [output], **rest)

    states = []
    for accumulate in (1, 2, 4):
        tried = steps()
        tried.accumulate = accumulate
        tried.state.method.eval()
        if fault:
            monkeypatch.setattr(Contrast, "after_step", each)
        for _ in range(2):
            figures = tried.take()
        state = model_of(tried.state)
        state["memory.features"] = state["memory.features"].sort(dim=0).values  # micro-batches queue in another order
        del figures["key_std"]  # of the keys of a micro-batch
        states.append({**state, **figures})
    gaps = [max((state[name].double() - states[0][name]).abs().max().item() for name in state) for state in states[1:]]
    assert int(states[0]["memory.pointer"]) == 16
    assert (max(gaps) < 2e-6) == (fault == ""), gaps


class Waits:
    """Counts what makes the host of a GPU wait for it: values read from tensors, constants and batches copied in pageable memory."""

    READS = ("item", "tolist", "nonzero", "cpu", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self, monkeypatch):
        self.seen = []
        for name in self.READS:
            self._count(monkeypatch, torch.Tensor, name)
        self._count(monkeypatch, torch, "tensor")
        moved = torch.Tensor.to

        def to(tensor, *args, **kwargs):
            ours = "site-packages" not in sys._getframe(1).f_code.co_filename  # torch's go from a GPU to itself
            if ours and any(isinstance(value, torch.device) for value in args) and not kwargs.get("non_blocking"):
                self.seen.append("to")
            return moved(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "to", to)

    def _count(self, monkeypatch, owner, name):
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            self.seen.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)


@pytest.mark.slow
def test_a_step_between_log_entries_does_not_wait_for_the_device(steps, monkeypatch):
    tried = steps(late=True)
    recorder = Recorder(None, from_step=0, num_steps=100, log_every=10, batch_size=8, ranks=Ranks())
    tried.take()  # constants are made once
    waits = Waits(monkeypatch)
    with recorder:
        for _ in range(2):
            figures = tried.take()
            recorder.record(tried.state.step, figures, epoch=0.0, learning_rate=0.03)
            tried.batch.to(torch.device("cpu"))
        assert waits.seen == []
        recorder.record(10, figures, epoch=0.0, learning_rate=0.03)
    assert "tolist" in waits.seen  # control: a log entry does wait
    waits.seen.clear()
    bool(torch.isfinite(figures["loss"])), torch.tensor([0.5], device="cpu"), torch.arange(3).to(torch.device("cpu"))
    assert waits.seen == ["__bool__", "tensor", "to"]  # control: what a step used to do


@pytest.mark.slow
def test_killed_after_the_last_checkpoint_the_figures_are_still_there(whole_run, tmp_path):
    whole, config = whole_run
    part = cut_at(whole, STEPS, tmp_path / "cut")
    result = run(config, part, resume=True)
    assert result["final"] == read_record(whole / "record.json").figures and "loss" in result["final"]


@pytest.mark.slow
def test_the_checkpoints_of_every_so_many_epochs_are_kept_whatever_the_period(tiny_config, tmp_path):
    config = tiny_config(runtime={"checkpoint_every_steps": 5, "keep_every_epochs": 1})  # two steps an epoch
    run(config, tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [f"step_0000000{step}.pt" for step in (2, 4, 5, 6)]


def test_a_batch_that_a_step_could_not_normalise_never_starts(tiny_config, tmp_path):
    alone = {"method": {"head": "mlp_bn", "jigsaw_fraction": 0.125}}  # one image of eight
    with pytest.raises(ConfigError, match=r"jigsaw_fraction=0\.5"):
        run(tiny_config(**alone), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(tiny_config(optimizer={"epochs": 1}, method={**alone["method"], "jigsaw_fraction": 0.5}), tmp_path / "run")


def test_what_ended_the_first_step_may_be_changed_in_the_same_folder(tiny_config, tiny_encoder, tmp_path, monkeypatch):
    tiny = {"encoder": {"arch": "tiny"}, "method": {"jigsaw": False}}
    whole, half = (tiny_config(**tiny, optimizer={"batch_size": size, "epochs": 1}) for size in (8, 4))
    step = train_module.train_step

    def fits(state, batch, **rest):
        if len(batch.index) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(state, batch, **rest)

    monkeypatch.setattr(train_module, "train_step", fits)
    with pytest.raises(torch.OutOfMemoryError):
        run(whole, tmp_path / "run")
    assert run(half, tmp_path / "run", resume=True)["steps"] == 4
    with pytest.raises(ConfigError, match="optimizer.batch_size: 4 there, 8 now"):
        run(whole, tmp_path / "run", resume=True)


@pytest.mark.parametrize("damaged", ["record.json", "images.json"])
def test_all_ranks_hear_of_a_file_of_the_run_that_the_main_one_cannot_read(tiny_config, tmp_path, monkeypatch, damaged):
    told = []

    def gather(value, ranks):
        told.append(value)
        return [value] * ranks.world_size

    monkeypatch.setattr(train_module, "gather_values", gather)
    monkeypatch.setattr("pretrain.run.ranks.gather_values", gather)
    (tmp_path / damaged).write_text("half a fi")
    with RunDir(tmp_path / "run", tiny_config(), resume=False) as run:
        (tmp_path / damaged).rename(tmp_path / "run" / damaged)
        with pytest.raises((DataError, ValueError)):
            train_module._train_in(
                run,
                tiny_config(),
                tmp_path / "run",
                precision=choose_precision("fp32", CPU),
                ranks=Ranks(0, 0, 2, 2),
                listed=None,
            )
    assert isinstance(told[-1], UserError)


def test_what_cannot_be_built_begins_no_folder(tiny_config, tmp_path, monkeypatch):
    def refuse(*args, **rest):
        raise ValueError("a value that only torch refuses")

    monkeypatch.setattr(train_module, "state_for", refuse)
    with pytest.raises(ValueError, match="only torch refuses"):
        run(tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_warm_up_that_falls_is_refused_for_a_new_run_and_not_for_one_that_goes_on(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(optimizer={"learning_rate": 0.002, "warmup_start": 0.005, "warmup_epochs": 1})
    with pytest.raises(ConfigError, match="warmup_start expected at most"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    checkpoint_path(tmp_path / "old" / "checkpoints", 2).parent.mkdir(parents=True)
    checkpoint_path(tmp_path / "old" / "checkpoints", 2).touch()
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(to_plain(config)))
    monkeypatch.setattr(train_module, "open_stream", lambda *args, **rest: (_ for _ in ()).throw(DataError("went on")))
    with pytest.raises(DataError, match="went on"):
        run(config, tmp_path / "old", resume=True)


def test_a_run_with_a_queue_larger_than_its_images_warns(tiny_config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(train_module, "StopFlag", Stopped)
    with pytest.raises(Terminated):
        run(tiny_config(method={"queue_size": 20}), tmp_path)
    assert "more keys than there are images (18)" in caplog.text


@pytest.mark.slow
def test_a_second_ctrl_c_says_what_is_saved(tiny_config, tmp_path, monkeypatch):
    step = Contrast.after_step

    def stop_in_the_fourth(self, outputs, **rest):
        if self.memory.pointer == 4:  # 24 keys in 20 rows
            raise KeyboardInterrupt
        step(self, outputs, **rest)

    monkeypatch.setattr(Contrast, "after_step", stop_in_the_fourth)
    with pytest.raises(KeyboardInterrupt, match="step 3.* newest checkpoint is that of step 2 of 6"):
        run(tiny_config(), tmp_path / "run")
    monkeypatch.setattr(train_module, "open_stream", lambda *args, **rest: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="nothing was saved by this start"):
        run(tiny_config(), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_output_directory_is_not_reused_by_accident(tiny_config, tmp_path):
    config = tiny_config(optimizer={"epochs": 1})
    result = run(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="--resume auto"):
        run(config, tmp_path / "run")
    assert run(config, tmp_path / "run", resume=True)["steps"] == result["steps"]  # finished: nothing to do
    with pytest.raises(ConfigError, match="optimizer.epochs: 1 there, 2 now"):
        run(tiny_config(optimizer={"epochs": 2}), tmp_path / "run", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        run(config, tmp_path / "other")


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_images(tiny_config, image_folder, tmp_path, monkeypatch):
    root = shutil.copytree(image_folder, tmp_path / "images")
    config = tiny_config(data={"root": str(root)})
    with monkeypatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(train_module, "StopFlag", Stopped)
        run(config, tmp_path / "run")
    shutil.copy(root / "000.png", root / "zzz.png")
    with pytest.raises(DataError, match="not those that this run began with"):
        run(config, tmp_path / "run", resume=True)
    (root / "zzz.png").unlink()
    assert run(config, tmp_path / "run", resume=True)["steps"] == STEPS  # control


def resume_apart(rank, config, folders, port, queue):
    """Both ranks resume, each from its own folder: a disk that they do not share."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    ranks = start_ranks("cpu", timeout_s=60)
    try:
        queue.put((rank, train(config, output_dir=folders[rank], resume=True, ranks=ranks)["steps"]))
    except CheckpointError as error:
        queue.put((rank, str(error)))
    stop_ranks(ranks)


@pytest.mark.slow
def test_ranks_that_do_not_see_one_folder_are_refused_on_resume(tiny_config, tmp_path, free_port):
    config = tiny_config(optimizer={"epochs": 3}, method={"batchnorm_images": 4})
    run(config, tmp_path / "shared")
    (tmp_path / "shared" / "record.json").unlink()
    for path in sorted((tmp_path / "shared" / "checkpoints").iterdir())[-1:]:
        path.unlink()
    heard = {}
    for case, folders in {"apart": ("shared", "another"), "together": ("shared", "shared")}.items():
        context = mp.get_context("spawn")
        queue = context.Queue()
        arguments = (config, [tmp_path / name for name in folders], free_port, queue)
        processes = [context.Process(target=resume_apart, args=(rank, *arguments)) for rank in range(2)]
        for process in processes:
            process.start()
        heard[case] = [message for _, message in sorted(queue.get(timeout=120) for _ in range(2))]
        for process in processes:
            process.join(timeout=60)
    assert heard["apart"][0] == heard["apart"][1] and "all must see one --output-dir" in heard["apart"][0]
    assert heard["together"] == [STEPS, STEPS]  # control: from one folder they resume and finish


@pytest.mark.slow
def test_a_run_without_loss_scaling_goes_on_in_fp16(whole_run):
    whole, config = whole_run
    precision = Precision(torch.device("cpu"), torch.float16)
    state = build_state(config, InputContract(), precision=precision, ranks=Ranks())
    assert state.scaler.is_enabled()  # control: there is something to load
    state.load_state_dict(read_checkpoint(checkpoint_path(whole / "checkpoints", STEPS)))
    assert state.step == STEPS


@pytest.mark.slow
def test_a_finished_run_refuses_other_images_and_records_no_command_that_did_nothing(
    tiny_config, image_folder, tmp_path
):
    images = shutil.copytree(image_folder, tmp_path / "images")
    config = tiny_config(data={"root": str(images)}, optimizer={"epochs": 1})
    first = run(config, tmp_path / "run")
    before = (tmp_path / "run" / "record.json").read_bytes()
    assert run(config, tmp_path / "run", resume=True)["steps"] == first["steps"]  # control: its own images
    shutil.copy(images / "000.png", images / "new.png")
    with pytest.raises(DataError, match="not those that this run began with"):
        run(config, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "record.json").read_bytes() == before


def test_every_micro_batch_of_the_run_has_a_number_of_its_own(tiny_config, tiny_encoder, monkeypatch):
    """ShuffleBN and the bank's draws are functions of it."""
    numbers, honest = [], Contrast.step
    monkeypatch.setattr(
        Contrast, "step", lambda self, batch, **rest: (numbers.append(rest["step"]), honest(self, batch, **rest))[1]
    )
    config = tiny_config(encoder={"arch": "tiny"}, method={"batchnorm_images": 2}, optimizer={"accumulate": 2})
    state = build_state(config, InputContract(), precision=choose_precision("fp32", CPU), ranks=Ranks())
    batch = next(open_stream(config, ranks=Ranks(), announce=lambda text: None).batches(from_step=0, num_steps=1))
    steps = Steps(state, Watch(train_module.StopFlag(), Ranks(), CPU), batch, accumulate=2)
    for _ in range(2):
        steps.take()
    assert numbers == [0, 1, 2, 3]


def test_the_key_network_moves_along_the_ramp(tiny_config, tiny_encoder, tmp_path, monkeypatch):
    moved, honest = [], Contrast.after_step

    def watched(self, outputs, *, momentum, **rest):
        moved.append(momentum)
        honest(self, outputs, momentum=momentum, **rest)

    monkeypatch.setattr(Contrast, "after_step", watched)
    method = {"momentum_end": 1.0, "jigsaw": False}
    config = tiny_config(encoder={"arch": "tiny"}, method=method, optimizer={"epochs": 1})
    run(config, tmp_path / "run")
    assert moved == pytest.approx([0.9, 0.95])  # half a cosine over two steps, at its start and in its middle


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_run_has_the_losses_and_names_of_a_plain_one(tiny_config, tiny_encoder):
    losses, states = [], []
    for compiled in (False, True):
        config = tiny_config(
            encoder={"arch": "tiny"}, method={"jigsaw": False, "memory": "batch"}, runtime={"compile": compiled}
        )
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            state = build_state(config, InputContract(), precision=choose_precision("fp32", CPU), ranks=Ranks())
            stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
            batch = next(stream.batches(from_step=0, num_steps=1))
            steps = Steps(state, Watch(train_module.StopFlag(), Ranks(), CPU), batch)
            losses.append([float(steps.take()["loss"]) for _ in range(2)])
        states.append(state.method.state_dict())
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == compiled
    assert list(states[0]) == list(states[1]) and losses[1] == pytest.approx(losses[0], rel=1e-3)
