"""The report of a run: write_report (report.html), results_table (terminal), and the figures for a notebook."""

from kd_jax.report.figures import plot_curves, plot_dark_knowledge, plot_per_class, plot_tradeoff
from kd_jax.report.page import write_report
from kd_jax.report.table import results_table

__all__ = ["plot_curves", "plot_dark_knowledge", "plot_per_class", "plot_tradeoff", "results_table", "write_report"]
