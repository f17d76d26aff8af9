"""ResNet34 -> ResNet18, and ResNet50 -> MobileNetV1, on ImageNet-1k.

python launch.py --config=configs/imagenet_resnet.py[:PAIR,METHOD,bfloat16,tiny]

PAIR      resnet34-resnet18 (default) or resnet50-MobileNetV1
METHOD    a name of kd_jax.config.presets: kd (default), at, dkd, dist, ...; or several, kd+at, whose terms are added
bfloat16  both networks compute in bfloat16 (parameters, BatchNorm averages, logits and losses stay float32)
tiny      a few steps on a few small images: does everything work?

Recipe of torchvision's and mdistiller's runs: SGD, momentum 0.9, weight decay 1e-4, batch 256, learning rate 0.1, 100
epochs, x0.1 at 30, 60 and 90; random resized crops of 224 and flips; 0.5 CE + 0.5 KD at T 1. Published last-epoch
top-1: teacher 73.31, student alone 69.75, kd 71.03 to 71.37, at 70.69, dkd 71.70, dist 72.07 (arXiv 1910.10699,
2203.08679, 2205.10536).

Data: TFDS imagenet2012 prepared as array_record, decoded by config.workers processes. 1 % of the training images is
held out to choose the best epoch; for that the labels are read once, for minutes, and kept beside the data.
--config.data.validation=0 trains on all. Teacher: --config.teacher.checkpoint=DIR loads an export of an earlier run
(.../teacher/export/last/student), else it is trained first. Several devices share the batch; --config.mesh.axes.fsdp=N
splits parameters and optimizer over N of them as well. Cost: about 500,000 steps a network; expect a day or more each
on one GPU (not run by us).
"""

from ml_collections import ConfigDict

from kd_jax.config import PRESETS, base, compose, finish, parse, scheme_of, training, with_four_stages
from kd_jax.config.pairs import ON_IMAGENET

MODELS = {
    "resnet34-resnet18": ("resnet.resnet34", "resnet.resnet18"),
    "resnet50-MobileNetV1": ("resnet.resnet50", "mobilenet.mobilenet_v1"),
}


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=tuple(MODELS), data=("imagenet2012",), knowledge=PRESETS, flags=("bfloat16",))
    dtype = "bfloat16" if "bfloat16" in variant.flags else "float32"
    config.data.update(dict(name="imagenet2012", validation=0.01))
    for role, name in zip((config.teacher, config.student), MODELS[variant.variant], strict=True):
        role.model = dict(name=f"models.vision.{name}", kwargs=dict(dtype=dtype))
    optimizer = dict(learning_rate=0.1, weight_decay=1e-4, schedule="step", boundaries=(0.3, 0.6, 0.9))
    # Random resized crops are made where the images are decoded.
    config.train = training(batch_size=256, epochs=100.0, augment=("flip",), optimizer=optimizer)
    config.teacher.train = config.train.copy_and_resolve_references()
    terms = with_four_stages(compose(variant.knowledge, **ON_IMAGENET[variant.variant]))
    config.terms, config.scheme = ConfigDict(terms), ConfigDict(scheme_of(variant.knowledge, terms))
    config.mesh.student_rules = config.mesh.teacher_rules = ((r"kernel", "fsdp"),)
    config.workers = 8
    config.log_every, config.eval_every, config.eval_batch_size = 100, 5000, 512
    few = dict(validation=0.0, limit=512, eval_limit=128, image_size=64)
    batch = dict(train=dict(batch_size=32), teacher=dict(train=dict(batch_size=32)))
    return finish(config, variant, steps=10, tiny=dict(data=few, log_every=5, workers=2, **batch))
