"""Where names and numbers stand in a figure: legends above the axes, axes of shares that end at 100 %, models apart.

Two models often have the same score, and the student and its baseline the same size; each must still be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox, ScaledTranslation, Transform, TransformedBbox

MARKERS = {"teacher": "s", "baseline": "^", "student": "o"}
SIZES = {"teacher": 9.5, "student": 8.0, "baseline": 6.0}  # in points; the largest lies lowest, so a tie shows all
DASHES = {"teacher": (0, (6, 2)), "baseline": (0, (2, 1.5)), "student": "solid"}
ASIDE = {"teacher": 1.7, "baseline": -1.7}  # points by which a curve is moved up: equal ones run side by side
GAP = 8.0  # points between axes, legend and title; a mark at 100 % stands out by 6.5
APART = 9.0  # points between models of one cost
FREE = 1.04  # of the height of the axes: a curve at 100 % is drawn whole


def legend_above(axes: Axes, title: str = "", handle: float = 2.2) -> None:
    """Puts the legend between the title and the axes, in as many columns as fit the panel; `handle` is in letters."""
    entries, figure = len(axes.get_legend_handles_labels()[1]), axes.get_figure(root=True)
    if not entries or figure is None:
        axes.set_title(title)
        return
    width = figure.bbox.width * 0.86 / len({round(a.get_position().x0, 3) for a in figure.axes})
    columns = min(entries, 4)
    legend = _legend(axes, columns, handle)
    while columns > 1 and legend.get_window_extent().width > width:
        columns -= 1
        legend = _legend(axes, columns, handle)
    height = legend.get_window_extent().height / figure.dpi
    axes.set_title(title, pad=72 * height + 2 * GAP)
    figure.set_figheight(figure.get_figheight() + max(0.0, height - 0.4))  # many names take no room from the axes


def _legend(axes: Axes, columns: int, handle: float) -> Legend:
    above = axes.transAxes + ScaledTranslation(0, GAP / 72, axes.figure.dpi_scale_trans)
    return axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=above,
        ncols=columns,
        borderpad=0,
        borderaxespad=0,
        handlelength=handle,
        columnspacing=1.2,
    )


def limits(low: float, high: float, margin: float, share: bool) -> tuple[float, float]:
    """Returns where an axis from `low` to `high` begins and ends: a share in % ends at 100, and none begins below 0.

    A rate of errors may be above 100; its axis then goes on.
    """
    bottom = max(0.0, low - margin) if low >= 0 else low - margin
    top = high + margin
    if share and high <= 100:
        top = min(100.0, top)
        bottom = min(bottom, top - margin)
    return bottom, top


def draw_to_the_edge(axes: Axes, lines: Sequence[Any]) -> None:
    """Lets lines stand out a little at the top, where the axes would cut one at 100 % to half its width."""
    for line in lines:
        line.set_clip_path(None)
        line.set_clip_box(TransformedBbox(Bbox.from_extents(0, 0, FREE, FREE), axes.transAxes))


def moved(axes: Axes, right: float = 0.0, up: float = 0.0) -> Transform:
    """Returns the transform of data that moves them by so many points."""
    return axes.transData + ScaledTranslation(right / 72, up / 72, axes.figure.dpi_scale_trans)


def side_by_side(axes: Axes, places: Mapping[str, float]) -> dict[str, Transform]:
    """Returns for each model the transform that moves it aside where others have about its place, a number > 0."""
    transforms = {}
    for role, x in places.items():
        near = [other for other, y in places.items() if max(x, y) / min(x, y) < 1.08]
        transforms[role] = moved(axes, right=APART * (near.index(role) - (len(near) - 1) / 2))
    return transforms


def leave_out_overlapping(axes: Axes) -> None:
    """Hides the annotations of finished axes that would be written over those made before them."""
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.draw_without_rendering()
    boxes: list[Bbox] = []
    for text in axes.texts:
        box = text.get_window_extent()
        text.set_visible(not any(box.overlaps(other) for other in boxes))
        boxes += [box] if text.get_visible() else []
