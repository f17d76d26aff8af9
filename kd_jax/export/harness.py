"""A student under lm-evaluation-harness: the accuracy of its tasks, by the student's own likelihoods and texts.

    python -m kd_jax.export.harness RUN_OR_EXPORT --tasks=arc_easy,hellaswag [--limit=100] [--length=512] [--out=FILE]

It needs `pip install 'kd_jax[eval]'`, and the data of the tasks, which the harness gets by itself. Gao, Tow, Abbasi et
al., "The Language Model Evaluation Harness", 2024, doi 10.5281/zenodo.12608602.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from kd_jax.core.chunked import scores
from kd_jax.core.evaluate import unbuilt_at
from kd_jax.core.metrics import accuracy, nll
from kd_jax.data.text.folder_tokenizer import read
from kd_jax.files import write_json
from kd_jax.train.student import Student, inputs_of, load
from kd_jax.train.writing import begun, ends_of


class Scorer:
    """The log-likelihoods of a student, row by row in batches of one shape; logits exist for a few tokens at a time.

    `length` are the most tokens of a row, of which longer ones lose their beginning; `batch` rows run at once.
    """

    def __init__(self, student: Student, length: int, batch: int) -> None:
        self.student, self.length, self.batch = student, length, batch
        self.program = jax.jit(self._of_rows)

    def _of_rows(self, params: Any, stats: Any, fixed: Any, tokens: Any, segments: Any, targets: Any) -> Any:
        inputs = inputs_of({"tokens": tokens, "segments": segments}, self.student.info, fixed)
        answer = unbuilt_at(self.student.entry, self.student.model, params, stats, inputs)
        values = scores({"nll": (nll, answer, targets), "accuracy": (accuracy, answer, targets)})
        return -values["nll"], values["accuracy"] > 0

    def scores(self, rows: Sequence[tuple[Sequence[int], int]]) -> list[tuple[float, bool]]:
        """Returns of rows (tokens, how many of the last are scored) their log-likelihood, and whether greedy is so.

        Raises ValueError for a row in which more is scored than `length` tokens.
        """
        if rows and (most := max(count for _, count in rows)) > self.length:
            raise ValueError(f"{most} tokens are scored at once, and rows have {self.length}: give a larger length.")
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
        answers: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(order), self.batch):
            some = order[first : first + self.batch]
            cut = [rows[i][0][-(self.length + 1) :] for i in some]
            size = min(self.length, 1 << (max(map(len, cut)) - 2).bit_length() if len(cut[0]) > 2 else 2)
            arrays = {name: np.zeros((self.batch, size), np.int32) for name in ("tokens", "segments", "targets")}
            for i, row in enumerate(cut):
                there = slice(0, len(row) - 1)
                arrays["tokens"][i, there], arrays["targets"][i, there] = row[:-1], row[1:]
                arrays["segments"][i, there] = 1
            arrays["segments"][len(cut) :, 0] = 1
            student = self.student
            logs, right = map(np.asarray, self.program(student.params, student.stats, student.fixed, **arrays))
            for i, row, log, same in zip(some, cut, logs, right, strict=False):
                scored = slice(len(row) - 1 - rows[i][1], len(row) - 1)
                answers[i] = float(log[scored].sum(dtype=np.float64)), bool(same[scored].all())
        return [answers[i] for i in range(len(rows))]


def language_model(student: Student, length: int = 0, batch: int = 8, folder: str = "") -> Any:
    """Returns the student as a model of lm-evaluation-harness, for `lm_eval.simple_evaluate(model=...)`.

    `length` is that of `Scorer`, 0 = as in training. `folder` is a model's folder whose chat template
    apply_chat_template=True takes. Texts are written greedily. Raises ImportError without the package, ValueError for a
    student that reads no texts.
    """
    try:
        from lm_eval import utils
        from lm_eval.api.model import TemplateLM
    except ImportError as e:
        raise ImportError("lm-evaluation-harness is not here: pip install 'kd_jax[eval]'") from e
    if not student.tokenizer:
        raise ValueError("This network was exported without a tokenizer, so it reads and writes no texts.")
    scorer = Scorer(student, length or int(student.info["input"]["shape"][0]), batch)
    plain = Tokenizer.from_str(student.tokenizer)
    start = begun(student.info, student.tokenizer, [""])[0]
    ends = ends_of(student.info, student.tokenizer)
    chat = read(folder).chat if folder else None

    class Model(TemplateLM):
        """The harness's view of a student."""

        @property
        def eot_token_id(self) -> int:
            return ends[0]

        @property
        def prefix_token_id(self) -> int:
            return start[0] if start else ends[0]

        @property
        def tokenizer_name(self) -> str:
            return folder or "student"

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
            ids = plain.encode(string, add_special_tokens=False).ids
            return ids if add_special_tokens is False or ids[: len(start)] == start else [*start, *ids]

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return chat.template if chat is not None and chat_template else None

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            if chat is None:
                raise ValueError("A chat template is that of a folder: language_model(student, folder=...) has one.")
            return chat.render(chat_history, begin_answer=add_generation_prompt)

        def _loglikelihood_tokens(self, requests: Sequence[Any], **options: Any) -> list[tuple[float, bool]]:
            return scorer.scores([([*context, *answer], len(answer)) for _, context, answer in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            values = []
            for (text,) in (request.args for request in requests):
                ids = self.tok_encode(text, add_special_tokens=False)
                windows = utils.get_rolling_token_windows(ids, self.prefix_token_id, scorer.length, 1)
                rows = [([*a, *b], len(b)) for a, b in map(utils.make_disjoint_window, windows)]
                values.append(sum(value for value, _ in scorer.scores(rows)))
            return values

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return [_written(student, *request.args) for request in requests]

    return Model()


def _written(student: Student, context: str, options: Mapping[str, Any]) -> str:
    """What the student writes after the context, up to the first of the texts that end it."""
    if options.get("do_sample"):
        raise ValueError("Students write greedily here, and the task samples: give it do_sample=False.")
    until = options.get("until") or []
    text = str(student.write(context, int(options.get("max_gen_toks", 64))))
    for end in [until] if isinstance(until, str) else until:
        text = text.split(end)[0] if end else text
    return text


def evaluate(student: Student, tasks: Sequence[Any], length: int = 0, **options: Any) -> dict[str, Any]:
    """Returns {task: {metric: value}} of tasks of the harness, by name or as it describes them.

    `options` are those of `lm_eval.simple_evaluate` (limit, num_fewshot, apply_chat_template); errors as
    `language_model`.
    """
    model = language_model(student, length)
    from lm_eval import simple_evaluate

    return simple_evaluate(model=model, tasks=list(tasks), **options)["results"]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the scores of a run's student, and writes them to --out."""
    parser = argparse.ArgumentParser(
        prog="python -m kd_jax.export.harness", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("run", help="a workdir, the folder of a training in it, or an export")
    parser.add_argument("--tasks", required=True, help="names of tasks, with commas")
    parser.add_argument("--limit", type=float, default=None, help="examples of each task")
    parser.add_argument("--length", type=int, default=0, help="the most tokens of a row; 0 = as in training")
    parser.add_argument("--out", default="", help="a file for the scores")
    asked = parser.parse_args(argv)
    scores = evaluate(load(asked.run), asked.tasks.split(","), asked.length, limit=asked.limit)
    print(json.dumps(scores, indent=1, default=str))
    if asked.out:
        write_json(Path(asked.out), json.loads(json.dumps(scores, default=str)))


if __name__ == "__main__":
    main()
