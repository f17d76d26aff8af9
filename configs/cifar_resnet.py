"""ResNet56 -> ResNet20 on CIFAR-10, and the same road on data that need no network.

python launch.py --config=configs/cifar_resnet.py[:DATA,KNOWLEDGE,tiny]

DATA       cifar10 (default), cifar100, fashion_mnist, digits
KNOWLEDGE  response (default), feature, attention, relation, or several: feature+response
tiny       a few steps on a few images: does everything work?

CIFAR: the recipe that RepDistiller, mdistiller and others share: SGD, batch 64, 240 epochs, learning rate 0.05, x0.1 at
150, 180 and 210; Hinton et al. 2015 (arXiv 1503.02531) with T 4. On CIFAR-100 the published last-epoch accuracies are
72.34 for the teacher, 69.06 for the student alone and 70.66 distilled (RepDistiller). A GPU takes a few hours.
digits: ResNet20 -> ResNet8 on scikit-learn's 8 x 8 digits, the student with 100 labels and an unlabelled transfer set,
the teacher with all 1,257; about two minutes on two CPU cores. --config.data.labels=0 gives the student all labels.
fashion_mnist: a convolutional network of 98,700 parameters -> one of 5,200, 28 x 28 images. The teacher learns from
20,000 labelled images; the student has 1,000 labels and 20,000 unlabelled images, none of them the teacher's.
Weights are the published ones; that of attention transfer is scaled from 32 x 32 pixels to those of the images.
"""

from ml_collections import ConfigDict

from kd_jax.config import PRESETS, base, compose, finish, parse, scheme_of, training, with_four_stages

DATA = {"cifar10": 32, "cifar100": 32, "fashion_mnist": 28, "digits": 8}  # pixels along a side


def cifar(config: ConfigDict, _: str) -> None:
    config.data.validation, config.data.download = 0.1, True
    step = dict(schedule="step", learning_rate=0.05)
    config.train = training(batch_size=64, epochs=240.0, augment=("pad_crop", "flip"), optimizer=step)
    config.teacher.train = config.train.copy_and_resolve_references()
    config.eval_every = 3520  # five epochs of 45,000 images


def fashion_mnist(config: ConfigDict, knowledge: str) -> None:
    config.terms = ConfigDict(with_four_stages(config.terms.to_dict()))
    config.scheme = ConfigDict(scheme_of(knowledge, config.terms))
    config.student.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(8, 12, 16, 16)))
    config.teacher.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(16, 32, 64, 128)))
    config.data.update(dict(validation=0.05, train_slice=(20000, 41000), labels=1000))
    config.teacher.data.train_slice = (0, 20000)
    augment = (dict(name="pad_crop", padding=2), "flip")
    config.train = training(batch_size=64, steps=1000, augment=augment, optimizer=dict(learning_rate=0.1))
    config.teacher.train = training(batch_size=64, steps=2000, augment=augment, optimizer=dict(learning_rate=0.05))
    config.log_every, config.eval_every = 50, 250


def digits(config: ConfigDict, _: str) -> None:
    config.student.model.name = "models.vision.cifar_resnet.resnet8"
    config.teacher.model.name = "models.vision.cifar_resnet.resnet20"
    config.data.update(dict(validation=0.125, labels=100))
    shift = (dict(name="pad_crop", padding=1),)
    config.train = training(batch_size=64, steps=800, augment=shift, optimizer=dict(learning_rate=0.05))
    config.teacher.train = training(batch_size=64, steps=600, augment=shift, optimizer=dict(learning_rate=0.05))
    config.log_every, config.eval_every = 20, 100


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, data=tuple(DATA), knowledge=PRESETS)
    config.data.name = variant.data
    of_size = {"side": DATA[variant.data]}
    config.terms = ConfigDict(compose(variant.knowledge, at=of_size, attention=of_size))
    config.scheme = ConfigDict(scheme_of(variant.knowledge))
    {"digits": digits, "fashion_mnist": fashion_mnist}.get(variant.data, cifar)(config, variant.knowledge)
    few = dict(limit=512, eval_limit=128, labels=min(config.data.labels, 100))
    batch = dict(train=dict(batch_size=32), teacher=dict(train=dict(batch_size=32)))
    return finish(config, variant, steps=10, tiny=dict(data=few, log_every=5, **batch))
