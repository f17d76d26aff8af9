"""A child process that reads or writes a folder and prints how much more memory than its parameters it took, in bytes.

python streamed_worker.py FOLDER streamed|whole|written MAX_SHARD_SIZE
"""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.pretrained_decoders import decoder_of, load, save
from kd_jax.models.streamed import Reading

KEY = jax.random.key(0)


def kilobytes(field):
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def clear_peak():
    with open("/proc/self/clear_refs", "w", encoding="ascii") as peak:
        peak.write("5")  # the highest resident size starts anew
    return kilobytes("VmRSS")


def main(folder, how, size):
    model = LinenModel(decoder_of(folder))
    if how == "written":
        params, _ = load(model, KEY, folder, reading=Reading())
        before = clear_peak()
        save(folder + "/again", model, params, max_shard_size=int(size))
        print((kilobytes("VmHWM") - before) * 1024)
        return
    reading = Reading(dtype="file") if how == "streamed" else None
    jax.eval_shape(model.init, KEY, np.zeros((1, 2), np.int32))
    np.zeros(1)
    before = clear_peak()
    params, _ = load(model, KEY, folder, reading=reading)
    params = jax.block_until_ready(jax.tree.map(jax.numpy.asarray, params))
    held = sum(x.nbytes for x in jax.tree.leaves(params))
    print((kilobytes("VmHWM") - before) * 1024 - held)


if __name__ == "__main__":
    main(*sys.argv[1:])
