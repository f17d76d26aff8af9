"""The report of a run: write_report (report.html), results_table (terminal), and the figures for a notebook.

Names load when they are asked for, since Matplotlib takes a fifth of the start-up and a verdict needs none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_jax.report.figures import plot_curves, plot_dark_knowledge, plot_per_class, plot_tradeoff
    from kd_jax.report.page import write_report
    from kd_jax.report.table import results_table

_PLACES = {
    "plot_curves": "figures",
    "plot_dark_knowledge": "figures",
    "plot_per_class": "figures",
    "plot_tradeoff": "figures",
    "results_table": "table",
    "write_report": "page",
}
__all__ = ["plot_curves", "plot_dark_knowledge", "plot_per_class", "plot_tradeoff", "results_table", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"kd_jax.report.{_PLACES[name]}"), name)
