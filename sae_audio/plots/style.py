"""The look shared by all figures: size, sizes of text, colours, colour bars, class ticks, PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sae_audio.properties import Property

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Okabe and Ito's palette."""
GREY = "#8A8A8A"
MAP = "cividis"
"""Colour map of every heat map but the spectrogram."""
WIDTH = 12.0
"""Inches; at 100 dots per inch 1200 pixels."""
UNDATED = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
"""What matplotlib is to leave out of each format."""
MOST_COLUMNS = 2400
"""Columns of a map; longer sound is pooled to that many."""


def drawn(figure: Figure, kind: str) -> bytes:
    """Return the bytes of a figure as ``kind``, a key of ``UNDATED``, without time or version; PNG at 100 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=100, metadata=UNDATED[kind])
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return the PNG bytes of a figure; see ``drawn``."""
    return drawn(figure, "png")


def new_figure(height: float) -> Figure:
    """Return an empty figure, ``WIDTH`` by ``height`` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=100, layout="constrained")


def dress(ax: Axes, xlabel: str, ylabel: str, title: str = "", grid: bool = False) -> None:
    """Sizes, labels and quiet axes, the same in every figure."""
    ax.set_xlabel(xlabel, fontsize=12)
    ax.set_ylabel(ylabel, fontsize=12)
    ax.set_title(title, fontsize=13, loc="left")
    ax.tick_params(labelsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(color="#DDDDDD", linewidth=0.8)
        ax.set_axisbelow(True)


def colorbar(figure: Figure, image: ScalarMappable, ax: Axes | Sequence[Axes], label: str) -> None:
    """Add a labelled colour bar beside one panel or several."""
    bar = figure.colorbar(image, ax=ax, pad=0.01, fraction=0.03, aspect=25)
    bar.set_label(label, fontsize=11)
    bar.ax.tick_params(labelsize=10)


def pooled(rows: Tensor, how: str) -> np.ndarray:
    """Return [n, T] pooled to at most ``MOST_COLUMNS`` columns by maximum (``max``) or mean."""
    rows = rows.detach().cpu().float()
    if rows.shape[1] > MOST_COLUMNS:
        pool = torch.nn.functional.adaptive_max_pool1d if how == "max" else torch.nn.functional.adaptive_avg_pool1d
        rows = pool(rows[None], MOST_COLUMNS)[0]
    return rows.numpy()


def class_ticks(ax: Axes, prop: Property, horizontal: bool = False) -> None:
    """Name about eight classes: the Cs for pitch, evenly spread ones otherwise."""
    chosen = [i for i, name in enumerate(prop.names) if name[0] == "C" and name[1:].isdigit()]
    chosen = chosen or list(range(0, prop.n_classes, max(1, prop.n_classes // (4 if horizontal else 7))))
    centres = [(prop.edges[i] + prop.edges[i + 1]) / 2 for i in chosen]
    (ax.set_xticks if horizontal else ax.set_yticks)(centres, [prop.names[i] for i in chosen])
