"""What --inspect prints: dictionaries, layout, complete prefixes, and why others are not."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.errors import CheckpointError
from tests.transfer.conversion.checkpoints import deep_copy, moco_v2, prefixed, pycontrast_cmc, torchvision_model
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.inspection import inspect_file

pytestmark = pytest.mark.usefixtures("tiny_architectures")


@pytest.fixture
def inspected(tmp_path):
    """Function: content -> the text about it."""

    def inspect(content):
        torch.save(content, tmp_path / "x.pth")
        return "\n".join(inspect_file(tmp_path / "x.pth"))

    return inspect


def test_a_known_layout_is_shown_with_both_branches_and_ready_overrides(inspected):
    text = inspected(moco_v2(tiny_state(seed=0), tiny_state(seed=1)))
    assert "layout      moco: MoCo v1 and v2, PCL" in text and "read in     facebookresearch/moco" in text
    assert "branch      query (default)" in text and "branch      key, --branch key" in text
    assert "prefix      state_dict/encoder_q: complete, 100 tensors of tiny18 (torchvision names); beside it" in text
    assert text.count("encoder     tiny18, 100 of 100 tensors") == 2
    assert 'MODEL.PIXEL_STD "[58.395, 57.12, 57.375]"' in text


def test_a_damaged_branch_is_shown_as_refused_and_the_other_as_good(inspected):
    content = deep_copy(moco_v2(tiny_state(seed=0), tiny_state(seed=1)))
    del content["state_dict"]["module.encoder_q.bn1.weight"]
    text = inspected(content)
    assert "prefix      state_dict/encoder_q: not complete: 99 of 100" in text
    assert text.count("refused     ") == 1 and "1 missing: bn1.weight" in text
    assert text.count("encoder     tiny18") == 1


def test_an_unknown_file_shows_what_was_found_and_taken(inspected):
    text = inspected({"odd": prefixed(tiny_state(), "trunk.")})
    assert "layout      none that is known" in text and "prefix      odd/trunk: complete" in text
    assert "note        no known layout" in text


@pytest.mark.slow
def test_a_refused_layout_and_a_file_without_a_resnet_are_described_not_raised(inspected):
    assert "refused     " in inspected(pycontrast_cmc()) and "colour channels" in inspected(pycontrast_cmc())
    assert "refused     " in inspected({"a": torch.zeros(2)})


def test_two_layouts_at_once_are_shown_as_a_question(inspected):
    both = {**moco_v2(tiny_state(), tiny_state()), **torchvision_model(tiny_state(), tiny_state())}
    assert "fits several layouts" in inspected(both)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no weight file at"):
        inspect_file(tmp_path / "absent.pth")
