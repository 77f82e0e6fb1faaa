"""The faults that a tile shows without the run's other tiles; at most the frame before counts."""

from __future__ import annotations

from collections.abc import Sequence

from processing.callbacks._judge_evidence import Evidence, ratio
from processing.callbacks.verdicts import QCThresholds
from processing.kernels.quality import TileMetrics
from processing.kernels.quality_lines import MARKS, stale_fraction

_SMALL_PX = 256
_LEAST_LINES = 3.5
"""Fewer lines than four may be an accident of the sample, or a glitch of the scan."""
_LEAST_STRIPS = 1.5 / MARKS
_CHARGE_TEARS = 10.0
"""A charged image is bent, which looks like torn lines: so many times their limit are borne."""
_NO_PART = 0.7
"""Share of the damaged lines that are one missing rest where a frame is incomplete, not damaged."""


def light_evidence(metrics: TileMetrics, height_px: int, limits: QCThresholds) -> list[Evidence]:
    """Return what brightness and contrast say: dark, saturated, low contrast."""
    read = 1 - metrics.missing_fraction
    # what was never read out is not dark: see `line_evidence`
    dark = max(0.0, metrics.dark_fraction - metrics.missing_fraction) / read if 0 < read < 1 else None
    dark = metrics.dark_fraction if dark is None else dark
    numbers = {"dark_fraction": metrics.dark_fraction, "limit": limits.max_dark_fraction}
    found = [Evidence("dark", ratio(dark, limits.max_dark_fraction), dark, 0.99, numbers)]
    if found[0].score <= 1:
        contrast = ratio(limits.min_std_counts, metrics.std_counts)
        numbers = {"std_counts": metrics.std_counts, "limit": limits.min_std_counts}
        found.append(Evidence("low_contrast", contrast, 1 - 1 / max(contrast, 1e-6), 0.95, numbers))
    # the bright bands of a charged sample saturate, too
    if not charged(metrics, height_px, limits):
        saturated, limit = metrics.saturated_fraction, limits.max_saturated_fraction
        numbers = {"saturated_fraction": saturated, "limit": limit}
        found.append(Evidence("saturated", ratio(saturated, limit), saturated, 0.99, numbers))
    return found


def readout_evidence(metrics: TileMetrics, before: Sequence[int]) -> list[Evidence]:
    """Return whether frame or rest are those of the frame before, whose marks are given."""
    stale = stale_fraction(metrics.marks, before)
    same = bool(metrics.marks) and tuple(before) == metrics.marks and any(before)
    frozen = Evidence("frozen", 2.0 * same, 1.0, 0.99, {"fingerprint": float(metrics.fingerprint)})
    if same:
        stale = 0.0  # of both, the fault is frozen
    numbers = {"stale_fraction": stale, "limit": _LEAST_STRIPS}
    return [frozen, Evidence("incomplete", ratio(stale, _LEAST_STRIPS), 0.2 + stale, 0.99, numbers)]


def line_evidence(metrics: TileMetrics, height_px: int, limits: QCThresholds) -> list[Evidence]:
    """Return what shows in the lines: lost, torn, a missing rest, or the bands of a charged sample."""
    banding = banding_limit(height_px, limits)
    numbers = {"banding": metrics.banding, "limit": banding}
    found = [Evidence("charging", ratio(metrics.banding, banding), metrics.banding / 0.25, 0.9, numbers)]
    limit = _line_limit(height_px, limits)
    if found[0].score > 1:
        if metrics.damaged_fraction <= _CHARGE_TEARS * limit:
            return found
        found = []
    missing = metrics.missing_fraction
    numbers = {"missing_fraction": missing, "limit": limit}
    if ratio(missing, limit) > 1 and missing >= _NO_PART * metrics.damaged_fraction:
        found.append(Evidence("incomplete", ratio(missing, limit), 0.2 + missing, 0.95, numbers))
    else:
        damaged = metrics.damaged_fraction
        numbers = {"damaged_fraction": damaged, "limit": limit}
        found.append(Evidence("damaged", ratio(damaged, limit), 0.2 + damaged, 0.9, numbers))
    return found


def charged(metrics: TileMetrics, height_px: int, limits: QCThresholds) -> bool:
    """Whether bands show, and no more torn lines than bands bring with them."""
    torn = _CHARGE_TEARS * _line_limit(height_px, limits)
    return metrics.banding > banding_limit(height_px, limits) and metrics.damaged_fraction <= torn


def banding_limit(height_px: int, limits: QCThresholds) -> float:
    """Return the limit of banding for frames of so many lines."""
    return limits.max_banding * max(1.0, _SMALL_PX / height_px)


def _line_limit(height_px: int, limits: QCThresholds) -> float:
    return max(limits.max_damaged_fraction, _LEAST_LINES / height_px)
