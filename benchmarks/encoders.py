"""A pretrained MiniLM into three layers, wide and narrow: accuracy on news, sentence embeddings, size and speed.

python -m benchmarks.encoders [--seeds 3] [--workdir runs/encoders] [--only response,narrow ...] [--finished]

Every student makes the same number of steps of the same batch from configs/encoders.py; none was tuned on the test
set, and nothing is selected: accuracy is that of the last step on all 425 test articles. The teacher learned from all
labels, students from 100 and from the other articles without. "labels only" are the baselines: the same student, from
layers of the teacher or from random weights. Runs go seed by seed and resume; `--finished` makes the table of those
that are done. Latency is the median of interleaved rounds of one forward pass of 16 texts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.stats import spearmanr

from benchmarks import common
from benchmarks.main_table import finished
from configs import encoders
from kd_jax.config import part, supervised
from kd_jax.data.splits import hold_out
from kd_jax.data.text import texts
from kd_jax.models.adapters import LinenModel
from kd_jax.models.from_teacher import layers
from kd_jax.models.language.pretrained import encoder_of, load
from kd_jax.system.checkpoint import load_tree
from kd_jax.train import run as train

METHODS = ("response", "distilbert", "tinybert", "minilm", "minilmv2", "bert_pkd", "mobilebert")
BASELINES = {"labels only": "models.from_teacher.layers", "labels only, random start": ""}
SENTENCES, NEIGHBOURS, ROUNDS = 300, 5, 15
KEY = jax.random.key(0)


def configure(method: str, narrow: bool, seed: int, root: Path) -> ConfigDict:
    knowledge = "response" if method in BASELINES else method
    config = encoders.get_config(knowledge + (",narrow" if narrow else ""))
    if method in BASELINES:
        config.terms = ConfigDict(supervised())
        config.train.labelled_share = 1.0
        config.student.initial = ConfigDict(part(BASELINES[method]))
    config.update(dict(seed=seed, report=False, baseline=False))
    config.teacher.data.validation = config.data.validation
    config.data.validation = 0.0
    config.teacher.workdir = str(root / ("teacher_sentence" if method == "sentence" else "teacher"))
    return config


def kinds() -> list[tuple[str, bool]]:
    """Returns (method, narrow) of every row, the cheap and the important ones first."""
    wide = [(m, False) for m in (*BASELINES, "response", "sentence", *METHODS[1:])]
    narrow = [(m, True) for m in (*BASELINES, "response", "sentence", "tinybert", "minilmv2")]
    return wide + narrow


def folder(method: str, narrow: bool, seed: int, root: Path) -> Path:
    return root / (method.replace(", ", "_").replace(" ", "_") + ("_narrow" if narrow else "")) / str(seed)


def accuracy_rows(root: Path, seeds: int, only: list[str] | None) -> list[dict[str, Any]]:
    """Rows of what is finished, after the runs of `only` ("response,narrow"; None: all)."""
    by_method: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for method, narrow in kinds():
            wanted = only is None or (f"{method},narrow" if narrow else method) in only
            config, directory = configure(method, narrow, seed, root), folder(method, narrow, seed, root)
            results = finished(directory, config)
            if results is None and wanted:
                results = train.run(config, directory)
            if results is not None:
                by_method.setdefault((method, narrow), []).append(results)
    rows = []
    for (method, narrow), runs in by_method.items():
        scores = [r["models"]["student"]["last"]["test"] for r in runs]
        teacher = runs[0]["models"]["teacher"]["last"]["test"]["accuracy"]
        mean = statistics.mean(s["accuracy"] for s in scores)
        rows.append(
            {
                "method": method,
                "student": "narrow" if narrow else "3 layers",
                "seeds": len(runs),
                "teacher": percent([teacher]),
                "accuracy": percent([s["accuracy"] for s in scores]),
                "retained": f"{100 * mean / teacher:.1f} %",
                "agreement": percent([s["agreement"] for s in scores]),
            }
        )
    return rows


def percent(values: list[float]) -> str:
    values = [100 * v for v in values]
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def network(config: ConfigDict, fields: ConfigDict) -> LinenModel:
    return LinenModel(encoder_of(**fields.model.kwargs, num_classes=len(texts.BBC)))


def exported(model: LinenModel, path: Path) -> Any:
    shapes = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 2), jnp.int32))
    return load_tree(path, {"params": shapes[0]})["params"]


def embed(model: LinenModel, params: Any, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the tap embedding of every text."""

    @jax.jit
    def run(params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        return model.apply(params, {}, tokens, mask, train=False, key=KEY, taps=("embedding",))[0].features["embedding"]

    size, parts = 25, []
    for start in range(0, len(tokens), size):
        rows = np.minimum(np.arange(start, start + size), len(tokens) - 1)
        parts.append(np.asarray(run(params, tokens[rows], mask[rows])))
    return np.concatenate(parts)[: len(tokens)]


def neighbours(examples: np.ndarray, labels: np.ndarray, asked: np.ndarray, answers: np.ndarray) -> float:
    """Returns accuracy of the majority of the nearest by cosine, a draw going to the nearest."""
    nearest = labels[np.argsort(-asked @ examples.T, axis=1)[:, :NEIGHBOURS]]
    votes = (nearest[:, :, None] == np.arange(labels.max() + 1)).sum(1) - 1e-3 * np.arange(labels.max() + 1)[None]
    first = np.eye(labels.max() + 1)[nearest[:, 0]] * 0.5
    return float(((votes + first).argmax(1) == answers).mean())


def sentence_rows(root: Path, seeds: int) -> list[dict[str, Any]]:
    """Cosines between held-out sentences against the teacher's, and neighbours among articles."""
    config = configure("sentence", False, 0, root)
    articles, labels = texts.bbc_articles()
    train, held = hold_out(labels, config.data.test, texts.TEST_SEED)
    rng = np.random.default_rng(0)
    train = np.sort(rng.permutation(train)[:400])
    sentences = texts.sentences([articles[i] for i in held])
    sentences = [sentences[i] for i in np.sort(rng.permutation(len(sentences))[:SENTENCES])]
    tokenizer = texts.read_tokenizer(encoders.MINILM)
    sets = [sentences, [articles[i] for i in train], [articles[i] for i in held]]
    inputs = [texts.encode(s, tokenizer, config.data.length) for s in sets]
    pairs = np.triu_indices(SENTENCES, 1)

    teacher = network(config, config.teacher)
    published, _ = load(teacher, KEY, encoders.MINILM, fresh=("head/",))
    reference: np.ndarray | None = None
    rows = []

    def measure(model: LinenModel, params: Any) -> tuple[float, float]:
        nonlocal reference
        one, examples, asked = (embed(model, params, *tokens) for tokens in inputs)
        cosines = (one @ one.T)[pairs]
        reference = cosines if reference is None else reference
        return float(spearmanr(cosines, reference)[0]), neighbours(examples, labels[train], asked, labels[held])

    def row(what: str, student: str, values: list[tuple[float, float]]) -> None:
        correlation, accuracy = zip(*values, strict=True)
        rows.append(
            {
                "method": what,
                "student": student,
                "seeds": len(values),
                "spearman": percent(list(correlation)),
                "neighbours": percent(list(accuracy)),
            }
        )

    row("published MiniLM (teacher)", "", [measure(teacher, published)])
    for narrow in (False, True):
        config = configure("sentence", narrow, 0, root)
        student, name = network(config, config.student), "narrow" if narrow else "3 layers"
        row("as started from the teacher", name, [measure(student, layers(student, KEY, (published, {}))[0])])
        exports = [folder("sentence", narrow, s, root) / "student/export/last/student" for s in range(seeds)]
        values = [measure(student, exported(student, path)) for path in exports if path.exists()]
        if values:
            row("sentence", name, values)
    return rows


def speed_rows(root: Path) -> list[dict[str, Any]]:
    """Returns parameters, and the median time of one forward pass of 16 texts, in turns."""
    rng = np.random.default_rng(0)
    cases = {}
    for name, method, narrow in (
        ("teacher", "response", False),
        ("3 layers", "response", False),
        ("narrow", "response", True),
        ("mobilebert", "mobilebert", False),
    ):
        config = configure(method, narrow, 0, root)
        model = network(config, config.teacher if name == "teacher" else config.student)
        tokens = jnp.asarray(rng.integers(1000, 20000, (16, config.data.length)), jnp.int32)
        params = jax.jit(model.init)(KEY, tokens)[0]
        forward = jax.jit(lambda p, x, model=model: model.apply(p, {}, x, train=False, key=KEY)[0].logits)
        jax.block_until_ready(forward(params, tokens))
        cases[name] = (forward, params, tokens, [])
    for _ in range(ROUNDS):
        for forward, params, tokens, seconds in cases.values():
            start = time.perf_counter()
            jax.block_until_ready(forward(params, tokens))
            seconds.append(time.perf_counter() - start)
    slowest = common.median(cases["teacher"][3])
    rows = []
    for name, (_, params, _, seconds) in cases.items():
        whole, words = sum(x.size for x in jax.tree.leaves(params)), params["words"]["embedding"].size
        rows.append(
            {
                "network": name,
                "parameters": f"{whole / 1e6:.1f} M",
                "without words": f"{(whole - words) / 1e6:.1f} M",
                "ms": f"{1e3 * common.median(seconds):.0f}",
                "faster": f"{slowest / common.median(seconds):.1f}x",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/encoders")
    parser.add_argument("--only", nargs="*", help="train these alone, such as response,narrow")
    parser.add_argument("--finished", action="store_true", help="train nothing: the table of the runs that are done")
    args = parser.parse_args()
    root = Path(args.workdir)
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    rows = accuracy_rows(root, args.seeds, [] if args.finished else args.only)
    if args.only is not None:
        return
    rows += sentence_rows(root, args.seeds) + speed_rows(root)
    common.write("encoders", rows, labels=100)


if __name__ == "__main__":
    main()
