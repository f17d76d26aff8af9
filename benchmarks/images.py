"""How many JPEGs a second are read, decoded and cropped: our folder door, Grain alone, and torchvision.

python -m benchmarks.images [--rounds 3] [--epochs 2]        # torchvision is left out where it is not installed

1,000 JPEGs of 500 x 375 are made in class folders; every loader makes batches of 64 random crops of 224 x 224 in
uint8, bilinear, by Pillow. "threads" are those of one process, "2 workers" processes. The loaders take turns in every
round; a loader's first batch is not timed (processes start), and the table has medians over the rounds and the ratio to
the bare loader of as many workers.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image

import kd_jax
from benchmarks import common
from kd_jax.data import stream
from kd_jax.data.batches import train_batches
from kd_jax.data.images import pictures
from kd_jax.system import parallel

COUNT, CLASSES, SIZE, BATCH = 1000, 10, 224, 64
KEPT: list[Any] = []


def make(folder: Path) -> None:
    """Returns smooth noise of 500 x 375 in quality 90, a few kilobytes each as photographs have for their size."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        place = folder / "train" / f"class{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{i:04d}.jpg", quality=90)
    (folder / "test").symlink_to(folder / "train")


def ours(folder: Path, workers: int, steps: int) -> Iterator[Any]:
    mesh = common.one_device()
    source = kd_jax.from_folder(folder, image_size=SIZE).train
    sharding = parallel.batch_sharding(mesh)
    return train_batches(source, batch_size=BATCH, seed=0, num_steps=steps, sharding=sharding, workers=workers)


def grain_alone(folder: Path, workers: int, steps: int) -> Iterator[Any]:
    import grain

    paths = sorted((folder / "train").rglob("*.jpg"))
    data = grain.MapDataset.source(paths).seed(0).shuffle().repeat().random_map(_crop).batch(BATCH)
    threads = grain.ReadOptions(num_threads=stream.THREADS, prefetch_buffer_size=stream.THREADS)
    data = data[:steps].to_iter_dataset(threads)
    if workers:
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return iter(data)


def _crop(path: Path, rng: np.random.Generator) -> dict[str, Any]:
    image = pictures.decode(path.read_bytes(), 3)
    return {"image": pictures.random_resized_crop(image, SIZE, rng), "label": int(path.parent.name[5:])}


def torchvision(folder: Path, workers: int, steps: int) -> Iterator[Any]:
    import torch

    try:
        from torchvision import datasets, transforms
    except RuntimeError:  # a wheel for CUDA beside a PyTorch for CPUs; pictures need none of these operators
        declared = torch.library.Library("torchvision", "DEF")
        KEPT.append(declared)  # it is taken back when it is collected
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import datasets, transforms
    crop = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.PILToTensor()])
    data = datasets.ImageFolder(str(folder / "train"), crop)
    loader: Any = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=False)

    def batches() -> Iterator[Any]:
        left = steps
        while left:
            for batch in loader:
                yield batch
                left -= 1
                if not left:
                    return

    return batches()


def rate(loader: Callable[..., Iterator[Any]], folder: Path, workers: int, steps: int) -> float:
    batches = loader(folder, workers, steps)
    next(batches)
    start = time.perf_counter()
    count = 0
    for batch in batches:
        jax.block_until_ready(batch) if loader is ours else None
        count += BATCH
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read them
    loaders = {"Grain": grain_alone, "kd_jax": ours, "torchvision": torchvision}
    if importlib.util.find_spec("torchvision") is None:
        del loaders["torchvision"]
    with tempfile.TemporaryDirectory() as name:
        folder, steps = Path(name), args.epochs * COUNT // BATCH
        make(folder)
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(args.rounds):
            for workers in (0, 2):
                for loader, fn in loaders.items():
                    rates.setdefault((loader, workers), []).append(rate(fn, folder, workers, steps))
    median = {key: statistics.median(values) for key, values in rates.items()}
    rows = [
        {
            "loader": loader,
            "reads in": f"{workers} workers" if workers else ("the process" if loader == "torchvision" else "threads"),
            "images/s": round(value),
            "over Grain": f"{value / median['Grain', workers]:.2f}",
            "rounds": " ".join(f"{v:.0f}" for v in rates[loader, workers]),
        }
        for (loader, workers), value in sorted(median.items(), key=lambda item: item[0][1])
    ]
    common.write("images", rows, rounds=args.rounds, epochs=args.epochs, pictures=COUNT)


if __name__ == "__main__":
    main()
