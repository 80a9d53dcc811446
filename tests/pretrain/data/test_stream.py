"""From a configuration to batches: bad recipes and folders end before step one."""

from __future__ import annotations

import shutil

import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.data.stream import open_stream
from pretrain.run.ranks import Ranks


def test_images_too_small_for_a_distance_are_refused_before_step_one(tiny_config, image_folder):
    """The images are 48 x 40."""

    def opened(distance):
        recipe = {"name": "apart", "ops": [{"op": "PatchDistance", "patch": 32, "distance": distance}]}
        config = tiny_config(views={"recipe": recipe}, method={"jigsaw": False})
        return open_stream(config, ranks=Ranks(), announce=lambda text: None)

    assert len(list(opened(8).batches(from_step=0, num_steps=2))) == 2
    with pytest.raises(DataError, match=r"shorter side has 41 px or more; 18 of 18 are smaller, down to 40 px"):
        opened(9)


def test_pairs_with_a_jigsaw_are_refused_before_an_image_is_read(tiny_config, tmp_path):
    recipe = {"name": "split", "ops": [{"op": "CenterCrop"}, {"op": "FrequencySplit", "sigma": 1.0}]}
    with pytest.raises(ConfigError, match=r"pass method\.jigsaw=false"):
        open_stream(
            tiny_config(views={"recipe": recipe}, data={"root": str(tmp_path / "absent")}),
            ranks=Ranks(),
            announce=print,
        )


def test_unreadable_images_are_counted_before_step_one_or_left_out_when_asked(tiny_config, image_folder, tmp_path):
    root = shutil.copytree(image_folder, tmp_path / "images")
    (root / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        open_stream(tiny_config(data={"root": str(root)}), ranks=Ranks(), announce=print)
    said: list[str] = []
    stream = open_stream(
        tiny_config(data={"root": str(root), "skip_unreadable": True}), ranks=Ranks(), announce=said.append
    )
    assert "left out" in said[0] and "18 images" in said[1]
    assert len(list(stream.batches(from_step=0, num_steps=1))) == 1
