"""Products of Legendre polynomials of two coordinates, of total degree 2 and more.

Over the frame they are orthogonal to a shift and to any affine map, so a field made of them takes nothing
from places and matrices of tiles, and its coefficients are not entangled as those of monomials are.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


@cache
def degrees(degree: int) -> tuple[tuple[int, int], ...]:
    """Return the degrees in u and v, of total degree 2 to ``degree``, in the order of the coefficients."""
    return tuple((total - q, q) for total in range(2, degree + 1) for q in range(total + 1))


def values(points: Reals, degree: int) -> Reals:
    """Return the values, (m, k), of the products at points (m, 2) as (u, v)."""
    of_u, of_v = (_legendre(column, degree) for column in points.T)
    found = np.empty((len(points), len(degrees(degree))))
    for k, (p, q) in enumerate(degrees(degree)):
        np.multiply(of_u[p], of_v[q], out=found[:, k])
    return found


def _legendre(x: Reals, degree: int) -> list[Reals]:
    """Return the polynomials of degree 0 to ``degree``, each of mean square 1 over -1 to 1."""
    found = [np.ones_like(x), x]
    for n in range(1, degree):
        found.append(((2 * n + 1) * x * found[n] - n * found[n - 1]) / (n + 1))
    return [np.sqrt(2 * n + 1) * one for n, one in enumerate(found)]
