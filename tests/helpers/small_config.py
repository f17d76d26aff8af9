"""A config file of two very small networks on digits, for commands that a test starts; the teacher trains long."""

import hashlib

import kd_jax
from kd_jax.data.load import load


def get_config(arg=""):
    config = kd_jax.config.small_digits()
    config.terms = kd_jax.compose("kd")
    for role in ("student", "teacher"):
        config[role].model.kwargs = dict(widths=(4,))
    config.train.steps, config.teacher.train.steps = 4, 4000 if arg == "long" else 4
    config.baseline = config.report = False
    config.eval_every, config.log_every = 100, 1
    if arg == "compiling":
        config.data.name = "small_config:deaf"
    return config


def deaf(fields):
    """Loads digits after a long time in C, in which Python hears no signal: as a compilation."""
    print("COMPILING", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
    return load({**fields, "name": "digits"})
