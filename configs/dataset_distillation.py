"""Dataset distillation: 1, 10 or 50 images a class, learned, in place of a whole data set.

python launch.py --config=configs/dataset_distillation.py[:VARIANT,IMAGES,DATA,cnn,tiny]

VARIANT
distribution   the images' class means are those of the data in networks drawn at random (DM: Zhao, Bilen 2021, arXiv
               2110.04181); the default
gradient       they pull a random network where the data pull it (DC: Zhao, Mopuri, Bilen 2020, arXiv 2006.05929)
kernel         the data are predicted from them by the kernel of a wide network (KIP: Nguyen, Chen, Lee 2020, arXiv
               2011.00050)
trajectory     a few steps on them take a network where the data take it in many (MTT: Cazenavette et al. 2022, arXiv
               2203.11932)
soft           those of "distribution", with a teacher's answers in place of their labels
IMAGES         1 a class, or 10, or 50
DATA           digits (default), fashion_mnist

The baseline learns from as many real images, chosen at random in equal number a class; data.label_seed draws others.
The student is a fresh network, an MLP, of another architecture than the one that the images were matched in; with
"cnn" it is a convolutional one, as those of the matching are.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, kd_term, parse, part, role, teacher_fields, term, training

VARIANTS = ("distribution", "gradient", "kernel", "trajectory", "soft")
IMAGES = ("10", "50")
CNN = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(32, 64)))
DATA = {"digits": (8, 8, 1), "fashion_mnist": (28, 28, 1)}
HARD = dict(inputs=("student.logits",), targets=("bank.features:label",))
EMBEDDER = dict(widths=(64, 64))
EXPERT = (16, 32)  # the gradient of ten steps of it is taken in one of the images
SGD = dict(name="sgd", learning_rate=0.05, weight_decay=0.0, schedule="constant", kwargs=dict(momentum=0.0))
WIDTH = {"digits": 1024, "fashion_mnist": 256}  # of the student: wide networks are near the kernel of "kernel"
NOISE = 0.4  # in standard deviations of a pixel
TINY = dict(trajectory=dict(experts=1, moments=1, span=1, updates=2, share=0.5))


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, variants=VARIANTS, data=tuple(DATA), flags=(*IMAGES, "cnn"))
    if len(counts := [word for word in variant.flags if word in IMAGES]) > 1:
        raise ValueError(f"{arg!r}: {' and '.join(counts)} images a class are two numbers.")
    config, shape, size = base(), DATA[variant.data], 10 * int("".join(counts) or 1)
    config.data.update(dict(name=variant.data, validation=0.125, labels=size))
    config.splits = ConfigDict(part("data.further.labelled", data=variant.data, validation=0.125))
    config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(WIDTH[variant.data],)))
    if "cnn" in variant.flags:
        config.student.model = ConfigDict(CNN)
    bank = role(
        "models.vision.generators.image_bank", inputs=("batch.index", "extra.window"), shape=shape, size=size, shift=0
    )
    config.roles.bank = ConfigDict(bank)
    if counts:  # of more images a class the student learns them by heart; chosen on the validation split
        config.roles.bank.model.kwargs.noise = NOISE
    adam = dict(name="adam", weight_decay=0.0, schedule="cosine")
    config.train = training(batch_size=256, steps=2000, optimizer=dict(learning_rate=0.001, **adam))
    config.optimizers.bank = ConfigDict({**config.train.optimizer.to_dict(), **adam, "learning_rate": 0.05})
    method = "distribution" if variant.variant == "soft" else variant.variant
    if method != "kernel":
        config.roles.embedder = ConfigDict(role("models.vision.cnn.cnn", **EMBEDDER))
    if method == "trajectory":
        config.roles.embedder.model.kwargs.widths = EXPERT
        config.optimizers.embedder = ConfigDict({**config.train.optimizer.to_dict(), **SGD})
    if variant.variant == "soft":
        config.teacher.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(32, 64), hidden=64))
        config.teacher.train = training(batch_size=64, steps=600, optimizer=dict(learning_rate=0.05))
        config.terms = ConfigDict({"kd": kd_term(1.0, temperature=2.0)})
    else:
        config.teacher = teacher_fields("")
        config.terms = ConfigDict({"ce": term("losses.task.cross_entropy_loss", **HARD)})
    tap = dict(tap="final") if method == "distribution" else {}
    config.scheme = ConfigDict(part("schemes.dataset_distillation.build", method=method, **tap))
    return finish(config, variant, steps=8, tiny=dict(scheme=dict(kwargs=TINY)) if method == "trajectory" else None)
