"""A teacher made 10 and 40 times smaller by one chain of pruning, distilling, folding and rounding.

python launch.py --config=configs/compress.py[:VARIANT,CHAIN,resnet,few,labels,tiny]

VARIANT   digits (default): a CNN of widths 48, 96, 192 on scikit-learn's 8 x 8 digits
          fashion_mnist: one of widths 16, 32, 64, 128 on 28 x 28 pixels, 12,000 labelled images
CHAIN     what is done, in order. Default: prune, distill, int8, distill, prune, distill, int4, distill, fold. One step
          alone, then recovered by distillation: prune_only, lowrank_only, int8_only, int4_only, and distill_only (the
          pruned network from random values)
resnet    the teacher is a ResNet8 of widths 24, 48, 96: channels that skip connections join are cut together
few       few labels (100, of fashion_mnist 500), and the other images without
labels    the chain learns from labels alone, without the teacher's answers

The report, and results["chain"], have the network after every step: accuracy, parameters, bytes of the file that ships,
latency. Each is in chain/ as one file for kd_jax.load. config.student is the network of the baseline: about as many
parameters as the chain keeps in the end, trained on labels alone. docs/compress.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from kd_jax.config import Variant, base, finish, parse, part, response, supervised, training

LEARN = {"step": "learn"}
# Last: nothing learns at a high learning rate without its norms, and integers with a step a channel stay as they are.
FOLD = {"step": "compress.folding.fold"}
FIRST_AND_LAST = "head/kernel|(stem|stage1)/conv/kernel"  # which have 8 bits where others have fewer


def prune(share: float, score: str = "taylor") -> dict:
    return {"step": "compress.channels.prune", "share": share, "score": score}


def quantise(bits: int) -> dict:
    return {"step": "compress.rounding.quantise", "bits": bits, "keep": FIRST_AND_LAST}


LOWRANK = {"step": "compress.lowrank.factorise", "rank": 0.25, "layers": "stage"}
ANEW = {"step": "compress.anew.anew"}
CHAINS = {
    "whole": (prune(0.5), LEARN, quantise(8), LEARN, prune(0.3), LEARN, quantise(4), LEARN, FOLD),
    "prune_only": (prune(0.7), LEARN),
    "lowrank_only": (LOWRANK, LEARN),
    "int8_only": (quantise(8), LEARN),
    "int4_only": (quantise(4), LEARN),
    "distill_only": (prune(0.7, "magnitude"), ANEW, LEARN),
}
SINGLE = tuple(name for name in CHAINS if name != "whole")


def digits(config: ConfigDict, variant: Variant) -> None:
    config.data.update(dict(name="digits", validation=0.125, labels=100 if "few" in variant.flags else 0))
    networks(config, variant, (48, 96, 192), (17, 34, 67))
    shift = (dict(name="pad_crop", padding=1),)
    config.train = training(batch_size=64, steps=800, augment=shift, optimizer=dict(learning_rate=0.05))
    config.teacher.train = training(batch_size=64, steps=600, augment=shift, optimizer=dict(learning_rate=0.05))
    chain_of(config, variant)


def fashion_mnist(config: ConfigDict, variant: Variant) -> None:
    config.data.update(dict(name="fashion_mnist", validation=1 / 6, limit=12_000, eval_limit=5_000))
    config.data.labels = 500 if "few" in variant.flags else 0
    networks(config, variant, (16, 32, 64, 128), (6, 11, 22, 45))
    augment = (dict(name="pad_crop", padding=2), "flip")
    config.train = training(batch_size=64, steps=800, augment=augment, optimizer=dict(learning_rate=0.05))
    config.teacher.train = training(batch_size=64, steps=1200, augment=augment, optimizer=dict(learning_rate=0.05))
    chain_of(config, variant)


def networks(config: ConfigDict, variant: Variant, wide: tuple[int, ...], narrow: tuple[int, ...]) -> None:
    """Sets the teacher, and as the baseline's network one of the widths that the chain ends at."""
    if "resnet" not in variant.flags:
        config.teacher.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=wide))
        config.student.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=narrow))
        return
    # On larger pictures the first stage has a stride, as in networks for them: a quarter of the arithmetic.
    options = dict(first_stride=2 if variant.variant == "fashion_mnist" else 1)
    name = "models.vision.cifar_resnet.resnet8"
    config.teacher.model = dict(name=name, kwargs=dict(widths=(24, 48, 96), stem_width=24, **options))
    config.student.model = dict(name=name, kwargs=dict(widths=(8, 17, 34), stem_width=8, **options))


def chain_of(config: ConfigDict, variant: Variant) -> None:
    """Sets the chain and the terms of a vision variant."""
    single = [word for word in variant.flags if word in SINGLE]
    if len(single) > 1:
        raise ValueError(f"The chains {single} are alternatives: name one.")
    config.terms = ConfigDict(supervised() if "labels" in variant.flags else response())
    config.scheme = ConfigDict(part("schemes.compress.build", chain=CHAINS[single[0] if single else "whole"]))


MAKERS: dict[str, Callable[[ConfigDict, Variant], None]] = {"digits": digits, "fashion_mnist": fashion_mnist}
VARIANTS = tuple(MAKERS)


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=VARIANTS, flags=("resnet", "few", "labels", *SINGLE))
    MAKERS[variant.variant](config, variant)
    config.log_every = 50
    return finish(config, variant, steps=8)
