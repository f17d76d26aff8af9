"""Two processes, each of which reads its own pictures and answers, get what one does."""

import json

import pytest
from digits_on_disk import class_folders
from several import finish, start


def test_two_processes_learn_from_a_folder_and_from_answers(tmp_path):
    folder = class_folders(tmp_path / "pictures", {"train": 64, "test": 20})
    scores = []
    for count in (1, 2):
        finish(start("folder_worker.py", count, folder, tmp_path / f"run{count}"))
        results = json.loads((tmp_path / f"run{count}" / "results.json").read_text())
        scores.append({k: v for k, v in results["models"]["student"]["last"]["test"].items() if isinstance(v, float)})
    assert scores[1] == pytest.approx(scores[0], rel=1e-3) and scores[0]["agreement"] > 0
