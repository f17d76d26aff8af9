"""The 13 teacher-student pairs on CIFAR-100 that distillation papers compare themselves on.

python launch.py --config=configs/cifar100_pairs.py:PAIR[,METHOD,synthetic,tiny]

PAIR    TEACHER-STUDENT, resnet32x4-resnet8x4 by default; kd_jax/config/pairs.py lists all 13
METHOD  a name of kd_jax.config.presets: kd (default), fitnet, at, sp, cc, vid, rkd, pkt, ab, ft, fsp, nst, crd, dkd,
        dist, review_kd, ...; or several, kd+at, whose terms are added
synthetic  made images in place of CIFAR-100, on any machine: the recipe runs, its numbers mean nothing
tiny    a few steps on a few images: does everything work?

Protocol: Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020 (arXiv 1910.10699), as RepDistiller and
mdistiller run it: SGD, momentum 0.9, weight decay 5e-4, batch 64, 240 epochs, learning rate 0.05 (0.01 for MobileNetV2
and the ShuffleNets), x0.1 at 150, 180 and 210, random crops with padding 4 and flips; review_kd as its authors: batch
128, learning rate 0.1 (0.02), Nesterov. Weights are the authors' for each pair (kd_jax/config/pairs.py, with sources),
and the title says where they have none. Where both networks have four stages (ResNet50, VGG, MobileNetV2), methods on
the last stage or on every stage use the fourth too. ab, fsp and ft train their own terms for 30 epochs first; mlkd
sees a weak and a strong view for 480 epochs (960 for ShuffleNets).

kd_jax/config/expected.py has the published accuracies, with source and epoch, where the recipe here is that of the
number; then the verdict sets the run beside it. Repeats with other seeds differ by about 0.3 points. We hold out 2 % of
the training images, to choose the best epoch on something else than the test set: --config.data.validation=0 gives the
published protocol to the letter.

Cost on a GPU: one to a few hours a network, most for ResNet50; on CPU cores days. Runs can share a teacher:
python launch.py --config=configs/cifar100_pairs.py:vgg13-vgg8,at --config.teacher.workdir=runs/vgg13
"""

from ml_collections import ConfigDict

from kd_jax.config import PRESETS, base, compose, finish, pairs, parse, part, scheme_of, training, with_four_stages
from kd_jax.config.expected import EXPECTED, published
from kd_jax.config.pairs import split_pair
from kd_jax.config.presets import FIRST


def title(pair: str, method: str) -> str:
    """Returns the title, with the published accuracies, so that the report shows what to compare with."""
    published = EXPECTED[pair]
    parts = [f"{n} {published[n]}" for n in ("teacher", "alone", method) if n in published]
    told = f"published: {', '.join(parts)}{pairs.origin(method, pair)}"
    return f"{' to '.join(split_pair(pair))} on CIFAR-100, {method} ({told})"


def recipe(model: str, method: str = "") -> ConfigDict:
    """Returns RepDistiller's recipe, or the one that ReviewKD's authors publish with."""
    low = model in pairs.LOW_RATE
    if method == "review_kd":
        optimizer = dict(schedule="step", learning_rate=0.02 if low else 0.1, kwargs=dict(nesterov=True))
        return training(batch_size=128, epochs=240.0, augment=("pad_crop", "flip"), optimizer=optimizer)
    optimizer = dict(schedule="step", learning_rate=0.01 if low else 0.05)
    return training(batch_size=64, epochs=240.0, augment=("pad_crop", "flip"), optimizer=optimizer)


def two_views(config: ConfigDict, student: str) -> None:
    """Sets MLKD's recipe: two views, 480 epochs (960 for the ShuffleNets after resnet32x4), a lower rate.

    The strong view is RandAugment at full strength and cutout of half the side, where the authors draw strengths.
    """
    strong = dict(name="rand_augment", num_ops=2, magnitude=10.0), dict(name="cutout", size=16)
    config.train.views = ConfigDict({"strong": (*config.train.augment, *strong)})
    config.scheme = ConfigDict(part("schemes.offline.build", views={"strong": "batch.strong"}))
    config.train.optimizer.learning_rate = 0.01 if student in pairs.LOW_RATE else 0.025
    after = config.teacher.model.name.endswith("resnet32x4") and "Shuffle" in student
    config.train.epochs = 960.0 if after else 480.0


def first_stage(config: ConfigDict, method: str, student: str) -> None:
    """Sets the first stage of AB, FSP and FT: 30 epochs at a constant rate before the 240.

    In it the head rests (for FT, the student).
    """
    trained = r"^ft_paraphraser/" if method == "ft" else r"^(?!student/head/)"
    rate = 0.01 if method == "ft" and student.startswith(("resnet", "wrn")) else config.train.optimizer.learning_rate
    first = dict(config.train.optimizer, schedule="constant", learning_rate=rate, trained=trained)
    task = dict(config.train.optimizer, trained=r"^(?!ft_paraphraser/)")
    config.optimizers = ConfigDict({"first": first, "task": task})
    config.train.epochs = 270.0


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=tuple(EXPECTED), knowledge=PRESETS, flags=("synthetic",))
    pair, method = variant.variant, "kd" if variant.knowledge == "response" else variant.knowledge
    teacher, student = split_pair(pair)
    pairs.check(method, pair)
    config.title = title(pair, method)
    config.data.update(dict(name="cifar100", validation=0.02, download=True))
    if "synthetic" in variant.flags:
        config.title = f"SYNTHETIC IMAGES, not CIFAR-100: {' to '.join(split_pair(pair))}, {method}"
        config.data.update(dict(name="kd_jax.data.images.synthetic:cifar100", download=False))
    for role, model in (("teacher", teacher), ("student", student)):
        config[role].model.name = f"models.vision.{pairs.MODELS[model]}"
    config.teacher.train, config.train = recipe(teacher), recipe(student, method)
    terms = compose(method, **pairs.options_of(pair, teacher, student), mlkd={"strong": method == "mlkd"})
    terms = with_four_stages(terms) if pairs.four_stages(teacher, student) else terms
    config.terms, config.scheme = ConfigDict(terms), ConfigDict(scheme_of(method, terms))
    if {*method.split("+")} & {*FIRST}:
        first_stage(config, method, student)
    config.eval_every = 3830  # five epochs of 49,000 images
    if method == "mlkd":
        two_views(config, student)
    batch = dict(train=dict(batch_size=32), teacher=dict(train=dict(batch_size=32)))
    finish(config, variant, steps=10, tiny=dict(data=dict(limit=512, eval_limit=128), log_every=5, **batch))
    if not variant.flags:  # neither made images nor a few steps
        config.published.update(published(pair, method, config))
    return config
