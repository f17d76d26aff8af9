"""Activities: which of 7 exercises does the wearer of a watch do? Windows of 2 s, people that training never saw.

pip install --no-deps seglearn      # the recordings lie in its wheel
python launch.py --config=configs/activity.py[:VARIANT,accelerometer,tiny]

The teacher, 126,000 parameters, has the labels of five people; the student, 1,600 parameters, 140 of these labels and
the other windows without. "accelerometer" takes the three rates of rotation away from the student: the teacher reads
six channels, the student three. config.data.split_seed draws who is in which split.

response           the teacher's answers (Hinton, Vinyals, Dean 2015, arXiv 1503.02531); the default
relation           distances and angles between windows, beside the response (RKD: Park et al. 2019, arXiv 1904.05068)
crd                contrastive representation, beside the response (Tian, Krishnan, Isola 2020, arXiv 1910.10699)
"""

from ml_collections import ConfigDict

from kd_jax.config import base, compose, finish, parse, part, training

VARIANTS = ("response", "relation", "crd")
EMBEDDINGS = dict(student="student.features:embedding", teacher="teacher.features:embedding")


def adam(steps: int, learning_rate: float) -> ConfigDict:
    return training(batch_size=64, steps=steps, optimizer=dict(name="adamw", learning_rate=learning_rate))


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, variants=VARIANTS, flags=("accelerometer",))
    config = base()
    config.data.name, config.data.labels = "kd_jax.data.activity:watch", 140
    config.task = ConfigDict(part("tasks.classify.task", confusion=True))
    config.teacher.model = dict(name="models.series.cnn.cnn", kwargs=dict(widths=(64, 128, 128), dropout=0.3))
    config.student.model = dict(name="models.series.cnn.cnn", kwargs=dict(widths=(8, 12, 12)))
    config.teacher.train, config.train = adam(400, 0.003), adam(800, 0.01)
    if "accelerometer" in variant.flags:
        config.prepare = ConfigDict(part("data.activity.accelerations"))
        config.student.inputs = ("batch.acceleration",)
    config.terms = ConfigDict(compose("response" if variant.variant == "response" else f"response+{variant.variant}"))
    config.log_every, config.eval_every = 40, 40
    return finish(config, variant)
