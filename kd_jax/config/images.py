"""The data and the title of a config at the size of its paper, and what the word "synthetic" makes of them."""

from __future__ import annotations

from ml_collections import ConfigDict

from kd_jax.config.variants import Variant

SYNTHETIC = "synthetic"
NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet2012": "ImageNet"}
MADE = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet2012": "imagenet"}


def on_images(config: ConfigDict, variant: Variant, title: str, name: str, validation: float = 0.02) -> None:
    """Sets the title and config.data to `name`, cifar10, cifar100 or imagenet2012; a missing CIFAR is fetched.

    With the flag "synthetic" the images are made (kd_jax.data.images.synthetic): any machine runs the recipe, its
    numbers mean nothing, and the title says so first.
    """
    if SYNTHETIC in variant.flags:
        config.title = f"SYNTHETIC IMAGES, not {NAMES[name]}: {title}"
        config.data.update(dict(name=f"kd_jax.data.images.synthetic:{MADE[name]}", validation=validation))
        return
    config.title = f"{title}, on {NAMES[name]}"
    config.data.update(dict(name=name, validation=validation, download=name.startswith("cifar")))
