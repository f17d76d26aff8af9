"""Chains of compression that cannot be: each is told in one line before anything is trained."""

import chains
from chains import LEARN, prune, quantise
from mistakes import Mistake, check, each
from mistakes import run as run_points


def wrong(*chain, **fields):
    return lambda folder: chains.run(folder, chain, **fields)


def of_points(*chain):
    return lambda folder: run_points(folder, chains.chained(chain))


LOWRANK = {"step": "compress.lowrank.factorise", "rank": 0.5}
ROWS = [
    Mistake("a chain without steps", "chain is empty; a step is", wrong()),
    Mistake("more pruning than there are channels", "a share of 1.5 cannot be pruned", wrong(prune(share=1.5), LEARN)),
    Mistake(
        "pruning that leaves a group empty",
        "prune: stage1 has 4 units: pruning 95 % of them leaves none",
        wrong(prune(share=0.95), LEARN),
    ),
    Mistake(
        "pruning that goes on until nothing is left", "leaves none", wrong(prune(), prune(), prune(share=0.9), LEARN)
    ),
    Mistake("bits that do not exist", "weights have 8, 4 or 2 bits, not 5", wrong(quantise(bits=5), LEARN)),
    Mistake("activations of 3 bits", "what layers read has 4 to 8 bits", wrong(quantise(activations=3), LEARN)),
    Mistake(
        "a layer to prune that there is not",
        "prune: no rule reaches layers='stage9'. …'stage1'",
        wrong(prune(layers="stage9"), LEARN),
    ),
    Mistake(
        "a layer to factorise that there is not",
        "factorise: no rule reaches layers='hiden'",
        wrong({**LOWRANK, "layers": "hiden"}, LEARN),
    ),
    Mistake(
        "factors that are no smaller", "the factors of no layer are smaller", wrong({**LOWRANK, "rank": 0.99}, LEARN)
    ),
    Mistake("a network without rules", "there are rules for a plain CNN and for ResNets", of_points(prune(), LEARN)),
    Mistake(
        "a step that does not exist", "there is no step 'prune'. A step is 'learn'", wrong({"step": "prune"}, LEARN)
    ),
    Mistake(
        "a step of another name",
        "'compress.channels.prun': 'kd_jax.compress.channels' has no 'prun'. Did you mean 'prune'",
        wrong({"step": "compress.channels.prun"}, LEARN),
    ),
    Mistake("an option of another name", "shore", wrong(prune(shore=1), LEARN)),
    Mistake(
        "a score that does not exist", "score='fisher': units are scored by one of", wrong(prune(score="fisher"), LEARN)
    ),
    Mistake(
        "a term that is not learned",
        "learn names the term 'kdd'. Did you mean 'kd'",
        wrong({**LEARN, "terms": ("kdd",)}),
    ),
    Mistake(
        "shares that are more than the whole",
        "shares of the learning steps sum to 1.2",
        wrong({**LEARN, "share": 0.6}, {**LEARN, "share": 0.6}),
    ),
    Mistake("fewer steps than stages", "leave a learning step none", wrong(LEARN, LEARN, LEARN, steps=2)),
    Mistake("BatchNorms where there are none", "fold: no BatchNorm", of_points(chains.FOLD, LEARN)),
    Mistake("factors before pruning", "low-rank factors come after pruning", wrong(LOWRANK, prune(), LEARN)),
    Mistake(
        "no teacher",
        "A chain starts at a frozen teacher",
        wrong(LEARN, teacher=False, terms="supervised", teacher__model__name=""),
    ),
]


@each(ROWS)
def test_chains(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
