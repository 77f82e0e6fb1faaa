"""Groups of tiles that hang together: joined by edges that agree against the stage, or by one, with doubt.

The error of a stage is only estimated, and one tile may lie far from where the stage says while all others
lie close: the matches of such a tile agree with each other, which chance does not. A match that stands alone
has only its own strength to show for itself.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from processing.kernels._placement_solve import (
    REJECT,
    Flags,
    Indices,
    Links,
    Reals,
    Robust,
    components,
)

_ROUNDS: Final = 20
_AGREEING: Final = 8.0
"""What another edge that agrees is worth, as a logarithm of likelihood: chance seldom agrees to a pixel."""
_SLACK_SHARE: Final = 0.1
"""By how much edges that join groups may differ, of the largest error of good edges."""
_ANY_SHARE: Final = 0.1
"""Error of the worst stages, of the step between tiles: recorded ones err by up to several hundred px."""
_STRONG: Final = 0.5
"""Least trust of an edge that alone contradicts the stage."""
_WEAK: Final = 0.1
"""Trust below which an edge that alone joins tiles to the others is called doubtful."""
_RATE: Final = 1e-3
"""How many edges by which a group hangs are called doubtful where nothing is wrong."""
_MAD: Final = 1.4826


def merged(robust: Robust, positions: Reals, good: Flags) -> tuple[Reals, Flags]:
    """Return places and kept edges, with the edges that join groups which have lost all edges between them.

    Each such edge proposes how the groups lie to each other; what most of them share wins, of equals what
    correlates better and lies nearer to what the stage says. Two that agree need no stage; one alone has to
    be likely by the stage as it is, or strong and likely by stages as they are known.
    """
    positions, good = positions.copy(), good.copy()
    for _ in range(_ROUNDS):
        count, group = components(robust.links, good, len(positions))
        joins = _joins(robust, positions, good, group)
        if not joins:
            break
        sizes, anchors, moved = np.bincount(group, minlength=count), set[int](), set[int]()
        for _, edges, low, high, shift in sorted(joins, key=lambda join: -join[0]):
            small, large, sign = (high, low, 1.0) if sizes[high] <= sizes[low] else (low, high, -1.0)
            if small in moved or small in anchors or large in moved:
                continue
            moved.add(small)
            anchors.add(large)
            positions[group == small] += sign * shift
            good[edges] = True
    return positions, good


def _joins(
    robust: Robust, positions: Reals, good: Flags, group: Indices
) -> list[tuple[float, Indices, int, int, Reals]]:
    """Return what is believed of the edges between groups: score, edges, both groups, shift of the second."""
    links = robust.links
    first, second = group[links.first], group[links.second]
    between = np.flatnonzero(~good & ~robust.barred & (first != second))
    if not len(between):
        return []
    ordered = np.where(first < second, 1.0, -1.0)[between, None]
    shifts = ordered * robust.left(positions)[between]
    variance = robust.noise(positions, good) ** 2 * links.variance[between]
    variance = variance + (_SLACK_SHARE * robust.most_noise_px) ** 2
    far2, wide2 = (robust_far2[between] for robust_far2 in stage_far2(robust))
    low, high = np.minimum(first, second)[between], np.maximum(first, second)[between]
    found = []
    _, pair = np.unique(np.stack([low, high]), axis=1, return_inverse=True)
    for one in range(int(pair.max()) + 1):
        own = np.flatnonzero(pair.ravel() == one)
        chi2 = ((shifts[own, None] - shifts[own]) ** 2 / (variance[own, None] + variance[own])).sum(2)
        agree = chi2 < REJECT**2
        trust = links.trust[between[own]]
        score = _AGREEING * agree.sum(1) + 4 * np.log(trust) - np.minimum(far2[own], REJECT**2) / 2
        best = int(np.argmax(score))
        alone = agree[best].sum() < 2
        weak = trust[best] < _STRONG or wide2[own[best]] >= REJECT**2
        if alone and far2[own[best]] >= REJECT**2 and weak:
            continue
        chosen = own[agree[best]]
        shift = np.median(shifts[chosen], 0)
        found.append((float(score[best]), between[chosen], int(low[own[0]]), int(high[own[0]]), shift))
    return found


def stage_far2(robust: Robust) -> tuple[Reals, Reals]:
    """Return how far edges (m,) are from the stage, squared, in variances of this and of any stage."""
    links = robust.links
    away2 = ((links.offset - links.steps(robust.stage_places())) ** 2).sum(1)
    any_px = max(_ANY_SHARE * robust.step_px, robust.stage.sigma_px, 1.0)
    return away2 / (2 * robust.stage.sigma_px**2), away2 / (2 * any_px**2)


def too_weak(robust: Robust, good: Flags) -> Flags:
    """Return the kept edges that alone join two groups, contradict the stage and are not strong enough."""
    far2, wide2 = stage_far2(robust)
    weak = (robust.links.trust < _STRONG) | (wide2 >= REJECT**2)
    suspect = good & (far2 >= REJECT**2) & weak
    return _alone(robust.links, good, suspect, len(robust.nominal))


def doubts(robust: Robust, positions: Reals, good: Flags) -> dict[int, str]:
    """Return what is doubtful of tiles that hang by a single edge, weak or far from the stage.

    Far: what the robust spread of all other edges about the stage's steps makes a rate of 10^-3 unlikely
    (Fisher's F of two coordinates of one edge against all others).
    """
    links, edges = robust.links, int(good.sum())
    if edges < 2:
        return {}
    away = (links.offset - links.steps(robust.stage_places()))[good]
    spread = max(_MAD * float(np.median(np.abs(away))), robust.most_noise_px)
    freedom = edges - 1
    limit_px = spread * np.sqrt(2 * freedom * (_RATE ** (-1 / freedom) - 1))
    weak = good & (links.trust < _WEAK)
    suspect = weak.copy()
    suspect[good] |= np.hypot(*away.T) > limit_px
    alone = _alone(links, good, suspect, len(positions))
    if not alone.any():
        return {}
    _, whole = components(links, good, len(positions))
    _, group = components(links, good & ~alone, len(positions))
    drift, found = positions - robust.stage_places(), dict[int, str]()
    for k in np.unique(whole[links.first[alone]]):
        labels, sizes = np.unique(group[whole == k], return_counts=True)
        main = labels[np.argmax(sizes)]
        rest = np.median(drift[group == main], 0)
        for one in labels[labels != main]:
            own = group == one
            far = float(np.hypot(*(np.median(drift[own], 0) - rest)))
            slight = weak & alone & (own[links.first] | own[links.second])
            if far <= limit_px and not slight.any():
                continue
            count = int(own.sum())
            whom = "it" if count == 1 else f"it and {count - 1} more"
            what = "a weak match" if slight.any() else "a match"
            text = f"doubtful: {what} alone takes {whom} {far:.0f} px from where the stage does"
            found.update(dict.fromkeys(np.flatnonzero(own).tolist(), text))
    return found


def _alone(links: Links, good: Flags, suspect: Flags, tiles: int) -> Flags:
    """Return which suspect edges are in no loop of kept ones."""
    alone = np.zeros(len(links), np.bool_)
    if not suspect.any():
        return alone
    # what other edges join counts as one tile: few are left
    _, group = components(links, good & ~suspect, tiles)
    edges = np.flatnonzero(suspect)
    ends = np.sort(np.stack([group[links.first[edges]], group[links.second[edges]]], 1), axis=1)
    pairs, inverse, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    neighbours: dict[int, set[int]] = {}
    for a, b in pairs.tolist():
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    bridges = _bridges(neighbours)
    lone = [n == 1 and a != b and (a, b) in bridges for (a, b), n in zip(pairs.tolist(), count, strict=True)]
    alone[edges] = np.array(lone)[inverse.ravel()]
    return alone


def _bridges(neighbours: dict[int, set[int]]) -> set[tuple[int, int]]:
    """Return the edges of a simple graph that are in no loop (Tarjan, Inf. Proc. Lett. 2 (1974) 160)."""
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    found: set[tuple[int, int]] = set()
    for root in neighbours:
        if root in order:
            continue
        order[root] = lowest[root] = len(order)
        path = [(root, -1, iter(neighbours[root]))]
        while path:
            node, parent, rest = path[-1]
            step = next(rest, None)
            if step is None:
                path.pop()
                if path:
                    lowest[parent] = min(lowest[parent], lowest[node])
                    if lowest[node] > order[parent]:
                        found.add((min(node, parent), max(node, parent)))
            elif step not in order:
                order[step] = lowest[step] = len(order)
                path.append((step, node, iter(neighbours[step])))
            elif step not in (parent, node):
                lowest[node] = min(lowest[node], order[step])
    return found
