"""docs/checks.md holds the rows as they are."""

import importlib.util
from pathlib import Path


def test_the_page_is_current():
    path = Path(__file__).with_name("table.py")
    spec = importlib.util.spec_from_file_location("mistakes_table", path)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert table.PAGE.read_text() == table.page(), f"{path.name} makes the page again"
    assert sum(len(table.rows_of(module)) for module in table.modules()) >= 120
