"""The code of docs/conversations.md, run on a folder and records."""

import re
from pathlib import Path

from language_folders import TALKS, jsonl, qwen

PAGE = Path(__file__).parents[3] / "docs" / "conversations.md"


def test_the_code_of_the_page_shows_what_is_learned(tmp_path, monkeypatch, capsys):
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[0]
    qwen(tmp_path / "model")
    jsonl(tmp_path / "data.jsonl", [TALKS[2]] * 5)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out == (
        "user\nName a colour of the sky.\nassistant\nThe sky is blue by day and black by night.\n"
        "The sky is blue by day and black by night.\n"
    )
