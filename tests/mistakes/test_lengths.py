"""Lengths and intervals that are no numbers of steps, examples or lines."""

from mistakes import Mistake, check, each, wrong

ROWS = [
    Mistake("batches of no example", "batch_size is 0; it must be at least 1", wrong(train__batch_size=0)),
    Mistake("an evaluation every 0 steps", "eval_every is 0; it must be at least 1", wrong(eval_every=0)),
    Mistake("a line every 0 steps", "log_every is 0; it must be at least 1", wrong(log_every=0)),
]


@each(ROWS)
def test_lengths(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
