"""What a report shows of segmentation: masks laid over pictures, and the overlap of every class."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np

from kd_jax.tasks.show_pictures import displayed, score_by_class
from kd_jax.types import Shown

LARGEST = 64  # pixels of a shown picture's longer side, about: a report shows it small, and holds every number
SHARE = 0.55  # of a class's colour in a pixel
SWATCH = 2  # pixels
BY_CLASS = "Intersection over union of each class on the test set, in percent; - for a class that is not there."


def show(shown: Shown) -> list[dict[str, Any]]:
    """Returns the test pictures with the masks of truth and networks over them, the colours, and a table by class."""
    return [*overlays(shown), *score_by_class(shown, "iou_by_class", "IoU by class", BY_CLASS)]


def colours(count: int) -> np.ndarray:
    """Returns uint8 [count, 3], colours that differ; the first, as a rule the background's, is black."""
    hues = [colorsys.hsv_to_rgb(i / max(count - 1, 1), 0.9 if i % 2 else 0.6, 1.0) for i in range(count - 1)]
    return np.round(255 * np.array([(0.0, 0.0, 0.0), *hues])).astype(np.uint8)


def overlays(shown: Shown) -> list[dict[str, Any]]:
    """Returns the section of pictures, and that of the colours of the classes."""
    pictures, masks = np.asarray(shown.batch["image"]), np.asarray(shown.batch["label"])
    answers = {role: np.argmax(np.asarray(out.logits), -1) for role, out in shown.outputs.items()}
    count = min(shown.count, len(pictures))
    if not count or not answers:
        return []
    names = [str(name) for name in shown.source.class_names]
    palette, images, labels = colours(len(names)), [], []
    for i in range(count):
        picture = displayed(pictures[i])
        layers = {"truth": masks[i], **{role: mask[i] for role, mask in answers.items()}}
        images += [picture, *(laid_over(picture, mask, palette) for mask in layers.values())]
        labels += [f"{i}: {what}" for what in (shown.source.noun, *layers)]
    lead = (
        f"Test {shown.source.noun}s, the truth, and what each network says of them; class {names[0]!r} leaves the "
        "picture as it is, and pixels without a class are white."
    )
    swatches = [np.broadcast_to(colour, (SWATCH, SWATCH, 3)).tolist() for colour in palette[1:]]
    return [
        {"kind": "images", "title": "Masks", "lead": lead, "images": [thinned(x) for x in images], "labels": labels},
        {
            "kind": "images",
            "title": "Colours of the masks",
            "lead": "What the colours mean.",
            "images": swatches,
            "labels": names[1:],
        },
    ]


def laid_over(picture: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Returns a picture uint8 [H, W, 3] with the colours of a mask int [H, W] over it; class 0 is not drawn."""
    share = np.where(mask == 0, 0.0, SHARE)[..., None]
    colour = np.where((mask < 0)[..., None], 255, palette[np.maximum(mask, 0)])
    return np.round((1 - share) * picture + share * colour).astype(np.uint8)


def thinned(picture: np.ndarray) -> list[Any]:
    """Returns the picture [H, W, 3] as lists, of a large one every second, third, ... row and column."""
    every = -(-max(picture.shape[:2]) // LARGEST)
    return picture[::every, ::every].tolist()
