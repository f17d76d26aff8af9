"""Global device arrays from NumPy arrays, for one process or many."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding

Batch = dict[str, jax.Array]


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Makes a global array from a numpy array that every process has."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    return assemble(array.shape, sharding, lambda index: array[index])


def assemble(shape: tuple[int, ...], sharding: NamedSharding, shard: Callable[[tuple], np.ndarray]) -> jax.Array:
    """Makes a global array of the shards that each process puts on its devices.

    make_array_from_callback would count as an implicit transfer, which the training loop forbids.
    """
    places = sharding.addressable_devices_indices_map(shape).items()
    shards = [jax.device_put(shard(index), device) for device, index in places]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def local_rows(batch_size: int, sharding: NamedSharding) -> np.ndarray:
    """Returns the sorted numbers of the rows of a batch that devices of this process hold: it reads no others."""
    every = np.arange(batch_size)
    mine = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([every[index] for index in mine]))


def to_global(batch: dict[str, np.ndarray], local: np.ndarray, batch_size: int, sharding: NamedSharding) -> Batch:
    """Makes a global batch of `batch_size` rows from the rows `local` that this process has read."""
    if len(local) == batch_size:
        return jax.device_put(batch, sharding)

    def build(value: np.ndarray) -> jax.Array:
        def rows(index: tuple[slice, ...]) -> np.ndarray:
            return value[np.searchsorted(local, np.arange(batch_size)[index[0]])]

        return assemble((batch_size, *value.shape[1:]), sharding, rows)

    return {key: build(value) for key, value in batch.items()}
