"""Capacity: students 2 to 1000 times smaller than their teacher, of one family, on digits; when it stops helping.

python launch.py --config=configs/capacity.py[:all,tiny] --config.student.model.kwargs.widths="(8, 8)"

The family is that of two hidden layers of equal width. The teacher, 301,066 parameters, has the labels of all 1,257
training images; the student those of 100, and the teacher's answers (Hinton, Vinyals, Dean 2015, arXiv 1503.02531) to
all of them. "all" gives it all labels too. The sweep of docs/capacity.md trains every size with five seeds, with and
without the teacher (terms.kd.weight=0), a program for each size. Students of different sizes: Cho, Hariharan 2019,
arXiv 1910.01348; Mirzadeh et al. 2019, arXiv 1902.03393.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, compose, finish, parse, training


def adam(steps: int, learning_rate: float) -> ConfigDict:
    shift = (dict(name="pad_crop", padding=1),)
    optimizer = dict(name="adamw", learning_rate=learning_rate, weight_decay=1e-3)
    return training(batch_size=64, steps=steps, augment=shift, optimizer=optimizer)


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, flags=("all",))
    config = base()
    config.data.update(dict(name="digits", validation=0.125, labels=0 if "all" in variant.flags else 100))
    config.teacher.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(512, 512)))
    config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(16, 16)))
    config.teacher.train, config.train = adam(800, 0.002), adam(800, 0.01)
    config.terms = ConfigDict(compose("response"))
    config.log_every, config.eval_every = 100, 400
    return finish(config, variant)
