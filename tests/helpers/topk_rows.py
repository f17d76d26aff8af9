"""Rows of tokens with the likeliest next tokens of a made-up teacher."""

import numpy as np

from kd_jax.data.text import topk_files


def rows(vocabulary=50, k=4, seed=0):
    """Rows of 5, 9 and 7 tokens with a teacher's likeliest next ones."""
    rng = np.random.default_rng(seed)
    lengths, shape = (5, 9, 7), (3, 9)
    tokens, labels = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    segments = np.zeros(shape, np.int32)
    ids = np.broadcast_to(np.arange(k, dtype=np.int32), (*shape, k)).copy()
    log_probs = np.full((*shape, k), -np.log(k), np.float32)
    for i, length in enumerate(lengths):
        text = rng.integers(0, vocabulary, length + 1)
        tokens[i, :length], labels[i, :length], segments[i, :length] = text[:-1], text[1:], 1
        p = rng.dirichlet(np.ones(vocabulary) / 5, length) + 1e-9
        order = np.argsort(-p, axis=-1)[:, :k]
        ids[i, :length], log_probs[i, :length] = order, np.log(np.take_along_axis(p, order, -1))
    return topk_files.TopK(tokens, labels, segments, ids, log_probs, vocabulary)
