"""A small made-up world: digits with bars of ink by class, backgrounds with a tint by class."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pretrain.good_views.moving_mnist.pools import Pool, World

DIGITS = tuple(str(digit) for digit in range(10))
PLACES = ("meadow", "night", "sea", "town")


def make_digits(num_each, *, seed):
    """uint8 (10 * num_each, 28, 28): a bar whose height tells the class, with noise that tells the image."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), num_each)
    images = np.zeros((len(labels), 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 : 6 + 2 * label, 6:22] = rng.integers(150, 256, (2 + 2 * label, 16))
    return images, labels.astype(np.int64)


def make_backgrounds(num_each, size, *, seed):
    """uint8 (4 * num_each, 3, size, size): noise about a tint."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(PLACES)), num_each)
    tint = np.array([(30, 90, 40), (20, 20, 60), (40, 70, 110), (110, 80, 60)])
    images = (
        tint[labels][:, :, None, None]
        + rng.integers(-15, 16, (len(labels), 3, 1, 1))
        + rng.integers(0, 40, (len(labels), 3, size, size))
    )
    return images.astype(np.uint8), labels.astype(np.int64)


def make_world(seed, *, size=72, num_digits=6, num_backgrounds=8):
    return World(
        Pool(*make_digits(num_digits, seed=seed), DIGITS),
        Pool(*make_backgrounds(num_backgrounds, size, seed=seed), PLACES),
    )


def write_sources(root):
    """root/digits.npz and root/backgrounds/{train,test}/CLASS/*.png, as a user would give them."""
    images, labels = make_digits(6, seed=0)
    np.savez(root / "digits.npz", images=images, labels=labels)
    for split, num_each in (("train", 4), ("test", 2)):
        pictures, places = make_backgrounds(num_each, 40, seed=num_each)
        for number, (picture, place) in enumerate(zip(pictures, places, strict=True)):
            folder = root / "backgrounds" / split / PLACES[place]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{number}.png")
    return root
