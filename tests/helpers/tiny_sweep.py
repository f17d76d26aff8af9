"""The config that sweeps are tested with, and the fields that they vary."""

from kd_jax.config import compose, small_digits, training

TEMPERATURE, RATE = "terms.kd.kwargs.temperature", "train.optimizer.learning_rate"


def tiny():
    """Two multi-layer perceptrons on a few digits, 12 steps."""
    config = small_digits()
    config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(8,)))
    config.teacher.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(16,)))
    config.data.update(dict(limit=256, eval_limit=64, labels=60))
    config.train = training(batch_size=16, steps=12, optimizer=dict(learning_rate=0.1, warmup=0.2))
    config.teacher.train = training(batch_size=16, steps=12)
    config.terms = compose("kd")
    config.eval_every, config.eval_batch_size = 4, 64
    config.mesh.axes.data = 1
    return config
