"""An encoder whose BatchNorms have never seen an image: named, refused unless asked for, and then proven all the same."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.model.encoder import ResNetEncoder
from tests.transfer.conversion.backbones import taken
from tests.transfer.conversion.checkpoints import caffe2, ours
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.convert import convert
from transfer.conversion.names import DETECTRON2
from transfer.conversion.values import silent_scales, untrained_finding

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_architectures")]


def fresh(*, zero_init: bool = False, arch: str = "tiny50"):
    torch.manual_seed(0)
    return ResNetEncoder(arch, zero_init_residual=zero_init).state_dict()


def saved(folder, content):
    torch.save(content, folder / "in.pth")
    return folder / "in.pth"


@pytest.mark.parametrize("zero_init", [False, True], ids=["plain", "zero_init_last"])
def test_a_network_that_was_never_trained_is_refused_as_that(tmp_path, zero_init):
    """torchvision's start, and timm's, whose last scales of 0 let the proof see nothing of the blocks."""
    with pytest.raises(CheckpointError, match=r"never trained.*53 running means.*--untrained") as error:
        convert(saved(tmp_path, fresh(zero_init=zero_init)), tmp_path / "out.pth")
    assert ("last scale of 16 blocks is 0" in str(error.value)) == zero_init and "collapsed" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize("zero_init", [False, True], ids=["plain", "zero_init_last"])
def test_it_is_converted_with_proof_when_asked_for(tmp_path, zero_init):
    state = fresh(zero_init=zero_init)
    sidecar = convert(saved(tmp_path, state), tmp_path / "out.pth", untrained=True)
    assert any("never trained" in note for note in sidecar.source["notes"])
    assert min(sidecar.proof["negative_controls"].values()) > 1e-4
    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]  # the zeros, not what the proof put there
    assert all(torch.equal(written[DETECTRON2.names[n]], t) for n, t in state.items() if "tracked" not in n)


def test_a_mistake_behind_a_last_scale_of_0_is_seen(tmp_path, monkeypatch):
    a, b = "layer1.1.conv2.weight", "layer1.2.conv2.weight"
    names = {**DETECTRON2.names, a: DETECTRON2.names[b], b: DETECTRON2.names[a]}
    monkeypatch.setitem(DETECTRON2.__dict__, "names", names)
    monkeypatch.setitem(DETECTRON2.__dict__, "inverse", {theirs: ours for ours, theirs in names.items()})
    with pytest.raises(CheckpointError, match="computes something else"):
        convert(saved(tmp_path, fresh(zero_init=True)), tmp_path / "out.pth", untrained=True)


def test_one_step_of_training_is_enough(tmp_path):
    network = ResNetEncoder("tiny50")
    network.load_state_dict(fresh())
    network.train()(torch.randn(2, 3, 64, 64))
    assert untrained_finding(network.state_dict()) is None
    assert convert(saved(tmp_path, network.state_dict()), tmp_path / "out.pth").source["notes"] == []


def test_a_checkpoint_of_step_0_is_untrained_and_can_still_be_read(tmp_path):
    """As a random start for a readout: reading says so and does not refuse."""
    content = ours(fresh(), fresh(), arch="tiny50")
    assert "never trained" in taken(content, tmp_path / "step_00000000.pt").notes[-1]
    with pytest.raises(CheckpointError, match="never trained"):
        convert(saved(tmp_path, content), tmp_path / "out.pth")


def test_statistics_that_a_file_never_held_are_not_untrained(tmp_path):
    content = caffe2(tiny_state("tiny50"), tiny_state("tiny50"))
    assert taken(content, tmp_path / "x.pkl").untrained is None


def test_a_trained_network_with_last_scales_of_0_has_collapsed(tmp_path):
    state = {n: torch.zeros_like(t) if n.endswith("bn3.weight") else t for n, t in tiny_state("tiny50").items()}
    assert len(silent_scales(state)) == 16
    with pytest.raises(CheckpointError, match="last scale of 16 blocks is 0.*collapsed"):
        convert(saved(tmp_path, state), tmp_path / "out.pth", untrained=True)
