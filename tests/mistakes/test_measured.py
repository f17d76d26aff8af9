"""Numbers that would not be what they are called: an API's answers, cached answers, scores that nothing measured."""

import json
from pathlib import Path

import jax
import numpy as np
from mistakes import FEATURES, MLP, Mistake, check, config, each, points, run

import kd_jax
from kd_jax.data.text.tokenizing import learned

WORDS = ["n", "e"]
RIGHT = {"prompt": "a", "tokens": WORDS, "top_logprobs": [{"n": -0.1, "a": -3.0}, {"e": -0.1, "a": -3.0}]}


def api(*, rationale="none", tokenizer=True, **changes):
    """A run on a file of ten answers of an API, each RIGHT but for `changes`."""

    def do(folder: Path):
        learned(["abc"], 260).save(str(folder / "tokenizer.json"))
        (folder / "api.jsonl").write_text("\n".join([json.dumps(RIGHT | changes)] * 10))
        made = config("supervised", data__name="pairs", data__directory=str(folder / "api.jsonl"))
        made.data.update(dict(length=16, test=0.2, validation=0.2, rationale=rationale))
        made.data.tokenizer = str(folder / "tokenizer.json") if tokenizer else "bpe"
        kd_jax.run(made, folder / "run", student=MLP(), teacher=MLP(16))

    return do


def shown(*texts):
    return {"tokens": list(texts), "top_logprobs": [{text: -0.1} for text in texts]}


def variables(seed=0, width=16):
    model = kd_jax.LinenModel(MLP(width))
    return jax.tree.map(np.asarray, model.init(jax.random.key(seed), np.zeros((1, FEATURES), np.float32)))


def cached(folder: Path, seed=0, until="cache", **fields):
    """Asks a teacher that is given, and trains nothing."""
    made = config("kd", teacher__cache__directory=str(folder / "cache"), **fields)
    return run(folder, made, teacher_variables=variables(seed), until=until)


def cached_then(**changes):
    def do(folder):
        cached(folder)
        cached(folder, **changes)

    return do


def damaged(folder):
    cached(folder)
    path = next(p for p in (folder / "cache" / "test" / "logits").rglob("*") if p.is_file() and "/c/" in str(p))
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(bytes(content))
    cached(folder)


def without_labels(validation=True, **fields):
    def do(folder):
        (x, _), (test, _) = points(), points(40, 1)
        parts = {"train": (x, None), "test": (test, None), "names": 4, "validation": 0.2 if validation else 0.0}
        made = config("kd", baseline=True, **fields)
        run(folder, made, data=kd_jax.from_arrays(**parts), teacher_variables=variables())

    return do


ROWS = [
    Mistake(
        "an API's tokens are bytes inside a character, which all have one text",
        "token '�' of the prompt 'a' may be any of 128 tokens of data.tokenizer … ask the API for ids",
        api(**shown("n", "�", "�")),
    ),
    Mistake(
        "an API's tokens that do not spell its answer",
        "do not spell its text: they are 'ne' in data.tokenizer, and the text is 'né'",
        api(answer="né"),
    ),
    Mistake(
        "ids of another tokenizer than that of the API's model",
        "do not spell its text: they are … and the text is 'ne'",
        api(**shown("token_id:70", "token_id:71"), answer="ne"),
    ),
    Mistake("an API's token that the tokenizer lacks", "'New' of the prompt 'a' is no token", api(**shown("New"))),
    Mistake(
        "an id beyond the vocabulary", "'token_id:9999' of the prompt 'a' is no token", api(**shown("token_id:9999"))
    ),
    Mistake(
        "probabilities in place of log-probabilities",
        "line 1: the top_logprobs of the token 'n' are no log-probabilities: {'n': 0.9}",
        api(top_logprobs=[{"n": 0.9}, {"e": 0.8}]),
    ),
    Mistake(
        "logarithms to the base 10",
        "the top_logprobs of the token 'n' add up to 1.22, and natural logarithms to 1 at most",
        api(top_logprobs=[{"n": -0.05, "a": -1.3}, {"e": -0.1}]),
    ),
    Mistake(
        "a token without its alternatives",
        "the top_logprobs of the token 'e' are None, not {text: log-probability, ...}",
        api(top_logprobs=[{"n": -0.1}, None]),
    ),
    Mistake(
        "top_logprobs of another number than tokens", "2 tokens and 1 top_logprobs", api(top_logprobs=[{"n": -0.1}])
    ),
    Mistake("tokens after the end of the answer", "go on after the end, 1 of 3", api(**shown("<end>", "n"))),
    Mistake(
        "rationales asked of an API's answers",
        "data.rationale is 'none' where lines have tokens and top_logprobs",
        api(rationale="first"),
    ),
    Mistake(
        "a teacher below the accuracy that was asked for",
        "on the validation split, config.teacher.min_accuracy asks for 99.00%. Is it the right checkpoint",
        lambda folder: run(folder, config(teacher__min_accuracy=0.99), teacher_variables=variables()),
    ),
    Mistake(
        "an accuracy asked of a teacher that no label can score",
        "min_accuracy asks for 0.5, and the teacher cannot be scored: no example of the validation split has a label",
        without_labels(teacher__min_accuracy=0.5),
    ),
    Mistake(
        "a run without labels",
        "not scored: no example of the validation split has a label",
        without_labels(),
        goes_on=True,
    ),
    Mistake(
        "a baseline where no example has a label",
        "baseline: no training example has a label, so there is nothing to train it on",
        without_labels(validation=False),
        goes_on=True,
    ),
    Mistake("the cache of another teacher", "teacher.parameters: expected", cached_then(seed=1)),
    Mistake(
        "a cache of all logits read as one of the largest",
        "answers.k: expected 2, the cache has 0",
        cached_then(teacher__cache__k=2),
    ),
    Mistake(
        "a type that a cache does not have",
        "teacher.cache.dtype is 'float8'",
        lambda folder: cached(folder, teacher__cache__dtype="float8"),
    ),
    Mistake("a flipped bit in a cache", "has changed: its SHA-256 is", damaged, when="reading"),
    Mistake(
        "more steps in a dispatch than between two evaluations",
        "steps_per_dispatch = 8; it is at least 1 and at most eval_every = 5",
        lambda folder: run(folder, config(steps=20, eval_every=5, steps_per_dispatch=8)),
    ),
]


@each(ROWS)
def test_measured(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
