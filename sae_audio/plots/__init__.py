"""Figures, 1200 pixels wide: labelled in units, colours that colour-blind readers tell apart (Okabe-Ito lines, cividis maps).

Every function returns a matplotlib ``Figure`` made without pyplot, so that no global state is touched; ``png`` turns it into
bytes that depend on nothing but the figure.
"""

from sae_audio.plots.results import (
    READERS,
    bundle_figures,
    decodability,
    dose_response,
    isolation_matrix,
    probe_scores,
    shown_trials,
    training_curves,
    tuning_map,
)
from sae_audio.plots.sound import activation_heatmap, before_after, posteriors, side_by_side
from sae_audio.plots.style import drawn, png

__all__ = [
    "READERS",
    "activation_heatmap",
    "before_after",
    "bundle_figures",
    "decodability",
    "dose_response",
    "drawn",
    "isolation_matrix",
    "png",
    "posteriors",
    "probe_scores",
    "shown_trials",
    "side_by_side",
    "training_curves",
    "tuning_map",
]
