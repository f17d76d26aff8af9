"""Chains that cannot be of decoders and encoders: heads, KV groups, layers and scores that there are not."""

import scheme_checks
from mistakes import Mistake, check, each

from kd_jax.train import run as train

UNITS = "compress.transformers.prune"
LEARN = {"step": "learn"}


def decoder(*chain, teacher=None):
    """A run of configs/compress.py:decoder,tiny on a text of its own: 3 layers, 32 wide, 4 heads, 48 FFN units."""

    def do(folder):
        folder.mkdir(exist_ok=True)
        (folder / "text.txt").write_text("\n\n".join(f"Verse {i} of the text goes on and on." * 3 for i in range(40)))
        config = scheme_checks.config_module("compress").get_config("decoder,tiny")
        config.data.directory, config.baseline, config.report = str(folder / "text.txt"), False, False
        config.teacher.model.kwargs.update(teacher or {})
        config.scheme.kwargs.chain = tuple(chain)
        train.run(config, folder / "run")

    return do


def prune(**units):
    return {"step": UNITS, **units}


GROUPED = dict(kv_heads=2)
ROWS = [
    Mistake("more heads than there are", "prune: heads=6 are to stay; expected 1 to 4", decoder(prune(heads=6), LEARN)),
    Mistake(
        "heads that KV groups do not divide",
        "prune: heads=3 is not divided by the KV groups: expected a multiple of kv_heads=2",
        decoder(prune(heads=3), LEARN, teacher=GROUPED),
    ),
    Mistake(
        "more heads in a KV group than it has",
        "prune: heads=3 with kv_heads=1: expected at most 2 heads in each KV group",
        decoder(prune(heads=3, kv_heads=1), LEARN, teacher=GROUPED),
    ),
    Mistake("KV groups without heads", "prune: kv_heads=1 needs heads, of which", decoder(prune(kv_heads=1), LEARN)),
    Mistake("layers out of range", "prune: layers=7 are to stay; expected 1 to 3", decoder(prune(layers=7), LEARN)),
    Mistake(
        "fewer layers than none", "prune: layers=-1 are to stay; expected 1 to 3", decoder(prune(layers=-1), LEARN)
    ),
    Mistake(
        "layers that an earlier step took",
        "prune: layers=3 are to stay; expected 1 to 2",
        decoder(prune(layers=2), LEARN, prune(layers=3), LEARN),
    ),
    Mistake("a share above 1", "prune: width=1.5 are to stay; expected 1 to 32", decoder(prune(width=1.5), LEARN)),
    Mistake("nothing to prune", "prune: nothing is named; expected how many stay of layers", decoder(prune(), LEARN)),
    Mistake(
        "an unknown score",
        "prune: score='activations'. Did you mean 'activation'",
        decoder(prune(heads=2, score="activations"), LEARN),
    ),
    Mistake(
        "perplexity of what is no layer",
        "prune: score='perplexity' ranks layers alone, not heads.",
        decoder(prune(heads=2, score="perplexity"), LEARN),
    ),
    Mistake("a unit of another name", "'head'", decoder(prune(head=2), LEARN)),
    Mistake(
        "layers that are not alike",
        "prune: layers with windows=(8, 0) are not alike",
        decoder(prune(layers=2), LEARN, teacher=dict(windows=(8, 0))),
    ),
    Mistake(
        "the width of embeddings that it scales",
        "prune: scale_embedding multiplies by sqrt(width)",
        decoder(prune(width=16), LEARN, teacher=dict(scale_embedding=True)),
    ),
    Mistake(
        "channels of pictures in a decoder",
        "there are rules for a plain CNN and for ResNets",
        decoder({"step": "compress.channels.prune", "share": 0.5}, LEARN),
    ),
]


@each(ROWS)
def test_chains_of_transformers(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
