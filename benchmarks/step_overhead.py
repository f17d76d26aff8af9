"""Does distilling cost more than its parts? (distillation step) / (teacher forward + supervised student step).

python -m benchmarks.step_overhead [--rounds=30]

On digits with the networks of configs/cifar_resnet.py:digits, batch 64, each round times the three programs one after
the other; the ratio is that of the medians. Limit: 1.03.
"""

from __future__ import annotations

import argparse
import time

import jax

from benchmarks import common
from configs import cifar_resnet
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.batches import train_batches
from kd_jax.system.parallel import batch_sharding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--knowledge", nargs="*", default=["response", "feature", "relation"])
    args = parser.parse_args()
    config = cifar_resnet.get_config("digits")
    splits, mesh, key = common.load(config.data), common.one_device(), jax.random.key(0)
    batches = train_batches(splits.train, batch_size=64, seed=0, num_steps=1, sharding=batch_sharding(mesh))
    batch = next(iter(batches))

    def runner(names: str):
        scheme, state = common.first_state(common.digits_scheme(config, names, splits), batch)
        step, hyper = jax.jit(make_train_step(scheme, scheme.stages[0])), hyper_of(scheme.stages[0])
        return (lambda: step(state, batch, hyper, key)), scheme, state

    supervised, scheme, state = runner("supervised")
    model, prepare = scheme.roles["teacher"].model, scheme.prepare
    images = jax.jit(lambda b: prepare(b, key, True))(batch)["image"]
    infer = jax.jit(lambda v, x: model.apply(*v, x, train=False, key=key)[0].logits)

    def teacher():
        return infer(state.frozen["teacher"], images)

    rows = []
    for names in args.knowledge:
        programs = {"distillation": runner(names)[0], "teacher": teacher, "supervised": supervised}
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(args.rounds + 3):
            for name, program in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program())
                if number >= 3:  # the first ones compile and warm up
                    seconds[name].append(time.perf_counter() - start)
        ms = {name: 1e3 * common.median(s) for name, s in seconds.items()}
        ratio = ms["distillation"] / (ms["teacher"] + ms["supervised"])
        rows.append({"knowledge": names, **{f"{n} ms": f"{v:.2f}" for n, v in ms.items()}, "ratio": f"{ratio:.3f}"})
    common.write("step_overhead", rows, limit=1.03)


if __name__ == "__main__":
    main()
