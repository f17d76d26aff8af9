"""Tokens of one text by two tokenizers, their groups, and the ids that both tokenizers have."""

import numpy as np

TOKENS = {
    "student_tokens": np.array([[0, 1, 4, 2], [3, 3, 0, 0]]),
    "teacher_tokens": np.array([[5, 1, 0], [2, 4, 0]]),
    "student_groups": np.array([[0, 0, 1, 2], [0, 1, -1, -1]], np.int32),
    "teacher_groups": np.array([[0, 1, 2], [0, 0, -1]], np.int32),
}
GROUPS = [[([0, 1], [0]), ([2], [1]), ([3], [2])], [([0], [0, 1])]]
SHARED = {"student_ids": np.array([0, 2, 4]), "teacher_ids": np.array([1, 5, 0])}
