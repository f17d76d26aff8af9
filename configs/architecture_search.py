"""The student's architecture found with the teacher in the loop, on digits.

python launch.py --config=configs/architecture_search.py[:VARIANT,KNOWLEDGE,tiny]

differentiable   the default: each block weighs four operations, weights and architecture learn by turns (DARTS, Liu et
                 al. 2018, arXiv 1806.09055), with the teacher in both; an operation a block is kept and trained anew
supernet         64 sub-networks of a slimmable network (sandwich rule, in-place distillation: Yu, Huang 2019, arXiv
                 1903.05134), scored on the validation split (reward of MnasNet, arXiv 1807.11626); the best goes on

"plain" is the student of config.student, taught as the winner is, for as many steps; its parameters are the budget. The
search is extra work: 400 steps, or 800. validation chooses the winner, so its score there is no estimate; test is.

Three seeds, test accuracy in %: differentiable 97.3 +- 0.9, plain 97.4 +- 0.6; supernet 84.4 +- 5.2, plain 91.0 +- 1.3.
Neither beat a plain student of the same budget.
"""

from ml_collections import ConfigDict

from kd_jax.config import PRESETS, compose, finish, parse, part, role, small_digits, training

VARIANTS = ("differentiable", "supernet")


def get_config(arg: str = "") -> ConfigDict:
    config = small_digits()
    variant = parse(arg, variants=VARIANTS, knowledge=PRESETS)
    config.terms = ConfigDict(compose(variant.knowledge))
    if variant.variant == "supernet":
        config.student.model = dict(name="models.vision.supernet.slim_cnn", kwargs=dict(widths=(4, 8, 8)))
        options = ((2, 4, 6, 8), (4, 8, 12, 16), (4, 8, 12, 16))
        config.roles.supernet = ConfigDict(role("models.vision.supernet.slim_cnn", widths=options))
        config.scheme = ConfigDict(part("schemes.supernet.build"))
    else:
        kinds = (("conv3",),) * 3
        config.student.model = dict(
            name="models.vision.supernet.mixed_cnn", kwargs=dict(widths=(6, 6, 12, 12), kinds=kinds)
        )
        config.roles.supernet = ConfigDict(role("models.vision.supernet.mixed_cnn", widths=(8, 8, 16, 16)))
        config.scheme = ConfigDict(part("schemes.architecture_search.build", search_steps=400))
        adam = dict(name="adam", learning_rate=0.02, weight_decay=0.0, schedule="constant")
        config.optimizers.alpha = ConfigDict({**training().optimizer, **adam, "kwargs": dict(b1=0.5)})
    short = dict(search_steps=6) | (dict(candidates=8) if variant.variant == "supernet" else {})
    return finish(config, variant, tiny=dict(scheme=dict(kwargs=short)))
