"""Pictures with boxes as files in COCO's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def content(count: int, objects: list[dict[str, Any]], size: tuple[int, int] = (32, 24)) -> dict[str, Any]:
    """Returns a .json of COCO's form: `count` pictures of `size` (width, height), categories 3 "cat" and 7 "dog"."""
    width, height = size
    images = [{"id": 10 + i, "file_name": f"{i}.png", "width": width, "height": height} for i in range(count)]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": objects, "categories": categories}


def object_of(picture: int, box: tuple[float, ...], category: int = 7, **more: Any) -> dict[str, Any]:
    """Returns an annotation of the picture with this number; a box is x, y, width, height."""
    return {"image_id": 10 + picture, "bbox": list(box), "category_id": category, **more}


def write(path: Path, made: dict[str, Any], pictures: Path, shades: dict[int, int] | None = None) -> None:
    """Writes the .json and, into the folder `pictures`, its pictures: each object has the shade of its category."""
    shades = shades or {3: 150, 7: 255}
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
    for image in made["images"]:
        pixels = np.full((image["height"], image["width"], 3), 40, np.uint8)
        for one in made["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, width, height = (round(v) for v in one["bbox"])
                pixels[max(y, 0) : y + height, max(x, 0) : x + width] = shades.get(one["category_id"], 255)
        Image.fromarray(pixels).save(pictures / image["file_name"])


def squares(count: int, seed: int, size: tuple[int, int] = (64, 48)) -> dict[str, Any]:
    """Returns a .json of pictures with one square each, of either category."""
    rng, objects = np.random.default_rng(seed), []
    for i in range(count):
        side = int(rng.integers(16, 25))
        x, y = (int(rng.integers(0, length - side + 1)) for length in size)
        objects.append(object_of(i, (x, y, side, side), (3, 7)[int(rng.integers(2))]))
    return content(count, objects, size)
