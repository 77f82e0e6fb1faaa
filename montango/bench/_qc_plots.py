"""Pictures of `montango bench qc`: a curve for each severity, a panel for each fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from montango.bench._qc_rates import Judged

_ACROSS = 4


def draw(folder: Path, faults: Sequence[str], severities: Sequence[float], judged: Judged) -> Path:
    """Draw the receiver operating characteristics of a source into a folder, and return the file.

    False alarms are on a logarithmic axis, down to one of the clean tiles.
    """
    down = -(-len(faults) // _ACROSS)
    figure = Figure(figsize=(3.2 * _ACROSS, 2.8 * down), layout="constrained")
    FigureCanvasAgg(figure)
    least = 1 / len(judged.clean)
    for at, fault in enumerate(faults):
        axes = figure.add_subplot(down, _ACROSS, at + 1)
        clean = np.sort(judged.statistic(fault))
        for severity in severities:
            limits = np.unique(np.concatenate([clean, judged.statistic(fault, severity)]))[::-1]
            alarms = 1 - np.searchsorted(clean, limits, side="left") / len(clean)
            found = [(judged.statistic(fault, severity) >= limit).mean() for limit in limits]
            axes.plot(np.maximum(alarms, least / 2), found, label=f"{severity:g}", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlim(least / 2, 1)
        axes.set_ylim(-0.02, 1.02)
        axes.axvline(1e-3, color="grey", linewidth=0.6)
        axes.set_title(fault.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
    axes.legend(title="severity", fontsize=7, title_fontsize=7, loc="lower right")
    figure.suptitle(f"{judged.name}: found against false alarms", fontsize=10)
    path = folder / f"roc-{judged.name.replace(' ', '-')}.png"
    figure.savefig(path, dpi=110)
    return path
