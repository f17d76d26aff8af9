"""SSKD on the pairs of CIFAR-100 that its paper reports; configs/contrastive.py:sskd has the digits.

python launch.py --config=configs/cifar100_sskd.py[:PAIR,synthetic,tiny]

PAIR       a row of the table, wrn40-2-wrn16-2 by default
synthetic  made images in place of CIFAR-100, on any machine: the recipe runs, its numbers mean nothing
tiny       a few steps on a few images: does everything work?

Xu, Liu, Li, Loy, "Knowledge Distillation Meets Self-Supervision", 2020, arXiv 2006.07114. All of it is read from the
authors' code (xuguodong03/SSKD @661b972, teacher.py, student.py, command.sh): 0.1 CE + 0.9 KD at T 4 + 2.7 KD on the
rotated images at T 4, all of them, + 10 similarities at T 0.5, of the wrong ones the best 75 %. The teacher's head
learns for 60 epochs at 0.05, x0.1 at 30 and 45; then the student for 240, at 0.05 (0.01 for MobileNetV2 and the
ShuffleNets), x0.1 at 150, 180 and 210; batch 64, momentum 0.9, weight decay 5e-4. An image and its three rotations are
each cropped anew, with padding 4; the teacher alone was trained with flips.

The table has their README's top-1, of the best epoch on the test set. Deviations: their mean and standard deviation of
the colours differ in the fourth digit; 2 % of the training images are held out to choose the best epoch
(--config.data.validation=0 is the published protocol). The other rows of their README have students that saw the
rotated images too, and are no reference for configs/cifar100_pairs.py.
Cost: a step has 256 images, four times those of cifar100_pairs.py: half a day a student on a GPU, an
estimate, since we did not run it at full size.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, on_images, pairs, parse, part, response, term, training

PUBLISHED = {  # teacher, student alone, SSKD
    "wrn40-2-wrn16-2": (76.46, 73.64, 76.04),
    "wrn40-2-wrn40-1": (76.46, 72.24, 76.13),
    "resnet56-resnet20": (73.44, 69.63, 71.49),
    "resnet32x4-resnet8x4": (79.63, 72.51, 76.20),
    "vgg13-vgg8": (75.38, 70.68, 75.33),
    "vgg13-MobileNetV2": (75.38, 65.79, 71.53),
    "ResNet50-MobileNetV2": (79.10, 65.79, 72.57),
    "ResNet50-vgg8": (79.10, 70.68, 75.76),
    "resnet32x4-ShuffleNetV1": (79.63, 70.77, 78.44),
    "resnet32x4-ShuffleNetV2": (79.63, 73.12, 78.61),
    "wrn40-2-ShuffleNetV1": (76.46, 70.77, 77.40),
}
CROPS = ("crop90", "crop180", "crop270")


def terms() -> dict:
    further = ("student.features:further_logits",), ("teacher.features:further_logits", "batch.label")
    heads = ("student_head.logits",), ("teacher_head.logits",)
    rotated, similar = {"temperature": 4.0, "wrong_ratio": 1.0}, {"temperature": 0.5, "wrong_ratio": 0.75}
    return {
        **response(0.9, temperature=4.0, ce=0.1),
        "transformed": term("losses.self_supervised.transformed_kd_loss", *further, weight=2.7, kwargs=rotated),
        "similarity": term("losses.representation.similarity_transfer_loss", *heads, weight=10.0, kwargs=similar),
    }


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=tuple(PUBLISHED), flags=("synthetic",))
    (teacher, student), numbers = pairs.split_pair(variant.variant), PUBLISHED[variant.variant]
    published = "published: teacher {}, alone {}, SSKD {}, best epochs".format(*numbers)
    on_images(config, variant, f"SSKD, {teacher} to {student} ({published})", "cifar100")
    for role, model in (("teacher", teacher), ("student", student)):
        config[role].model.name = f"models.vision.{pairs.MODELS[model]}"
    step = dict(schedule="step", learning_rate=0.05)  # x0.1 at 150, 180, 210 of 240 by default
    config.teacher.train = training(batch_size=64, epochs=240.0, augment=("pad_crop", "flip"), optimizer=step)
    rate = 0.01 if student in pairs.LOW_RATE else 0.05
    optimizer = dict(step, learning_rate=rate)
    config.train = training(batch_size=64, epochs=240.0, augment=("pad_crop",), optimizer=optimizer)
    config.train.views = ConfigDict({name: ("pad_crop",) for name in CROPS})
    config.scheme = ConfigDict(part("schemes.self_supervised.build", head_share=60 / 240, crops=CROPS))
    head = dict(training(optimizer=step).optimizer, boundaries=(0.5, 0.75))
    config.optimizers = ConfigDict({"teacher_head": head})
    config.terms = ConfigDict(terms())
    return finish(config, variant)
