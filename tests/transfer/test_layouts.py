"""Every layout of the table is recognised by content, as itself and as nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.transfer.checkpoints import MAKERS, encoder_state
from transfer.layouts import LAYOUTS
from transfer.sources import find_containers, load_backbone, matches, unwrap

QUERY, KEY = encoder_state(seed=0), encoder_state(seed=1)
FILES = [(name, maker) for name, makers in MAKERS.items() for maker in makers]


def test_every_layout_has_a_maker_and_an_entry_of_its_own():
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)
    assert set(MAKERS) == set(names) - {"infomin-transfer-converted"}  # tests/transfer/test_convert.py makes that one


@pytest.mark.parametrize(("name", "maker"), FILES)
def test_a_file_fits_its_layout_and_no_other(tmp_path, name, maker):
    content = maker(QUERY, KEY)
    containers = {place: unwrap(tensors, tmp_path) for place, tensors in find_containers(content)}
    assert [layout.name for layout in LAYOUTS if matches(layout, containers)] == [name]


@pytest.mark.parametrize(("name", "maker"), FILES)
def test_each_branch_gives_exactly_its_own_tensors(tmp_path, name, maker):
    path = tmp_path / "misleading_name_moco_v2.pth"  # the name plays no part
    torch.save(maker(QUERY, KEY), path)
    found = load_backbone(path)
    assert (found.layout, found.arch, found.branch) == (name, "resnet18", found.branches[0])
    for branch in found.branches:
        taken = load_backbone(path, branch=branch).tensors
        wanted = KEY if branch == "key" else QUERY
        assert len(taken) == 100
        assert all(torch.equal(taken[tensor], wanted[tensor]) for tensor in taken)


@pytest.mark.parametrize(("name", "maker"), [file for file in FILES if file[0] != "torchvision"])
def test_two_copies_of_the_encoder_are_both_offered(tmp_path, name, maker):
    torch.save(maker(QUERY, KEY), tmp_path / "file.pth")
    assert load_backbone(tmp_path / "file.pth").branches == ("query", "key")
