"""How alike two layers are as wholes: measures of representational similarity from covariances.

A neuron without a match can still be there: split over several neurons of the other layer, or in a
rotated basis. Measures that ask for single neurons (`soft_matching`) and measures that ask for the
space they span (`cka`, `procrustes`, `pwcca`), side by side, tell these apart; `explained` tells
them apart neuron by neuron. All follow from the covariances within either layer and between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import get_lapack_funcs, solve_triangular
from scipy.optimize import linear_sum_assignment

# Ridge of the regression and cut of the canonical correlations, both as a share of a standardised
# neuron's variance: what is below it can't be told from rounding and sampling in real runs.
RIDGE = 0.01
CUT = 0.01

# Correlation below which mass stays unmatched rather than matched (`matched`).
UNMATCHED_BELOW = 0.5

# Largest number of equal parts that neurons of layers of unlike width are cut into.
LARGEST_PARTS = 8192


@dataclass(frozen=True)
class Factor:
    """A pivoted Cholesky factor L of a positive matrix M: M[order][:, order] ≈ L Lᵀ.

    Attributes
    ----------
    order
        All neurons, the r that span first, int64, shape (d,).
    lower
        L, shape (d, r); its first r rows are lower triangular.
    """

    order: NDArray[np.int64]
    lower: NDArray

    @classmethod
    def of(cls, matrix: NDArray, tolerance: float) -> Factor:
        """Factor a matrix until no neuron has more than `tolerance` left, given those before.

        It stops there too where rounding made the matrix indefinite (LAPACK ``pstrf``, Higham,
        *Analysis of the Cholesky decomposition of a semi-definite matrix*, 1990).
        """
        (pstrf,) = get_lapack_funcs(("pstrf",), (matrix,))
        lower, pivots, rank, _ = pstrf(matrix, tol=tolerance, lower=1)
        return cls(pivots.astype(np.int64) - 1, np.tril(lower)[:, :rank])

    @property
    def kept(self) -> NDArray[np.int64]:
        """The neurons that span, shape (r,)."""
        return self.order[: self.lower.shape[1]]

    def solve(self, values: NDArray) -> NDArray:
        """L⁻¹ times the rows of `values` that belong to the kept neurons, shape (r, n)."""
        rank = self.lower.shape[1]
        return solve_triangular(
            self.lower[:rank], values[self.kept], lower=True, check_finite=False
        )


@dataclass(frozen=True)
class Layer:
    """What is needed of one layer's covariance S, made once for all its comparisons.

    Attributes
    ----------
    std
        Standard deviations, as a share of the layer's √tr S; float64, shape (d,), all 0 in a layer
        of dead neurons.
    energy
        ‖S‖_F / tr S.
    span
        Factor of the correlation matrix R cut at `CUT`: the neurons that more than that share of
        their variance is left of, given those before them.
    ridge
        Factor of R + `RIDGE` I.
    freedom
        tr R (R + `RIDGE` I)⁻¹: the number of regressors that the ridge leaves.
    """

    std: NDArray[np.float64]
    energy: float
    span: Factor
    ridge: Factor
    freedom: float

    @classmethod
    def of(cls, covariance: NDArray[np.float64], dtype: DTypeLike = np.float64) -> Layer:
        """That of a covariance matrix, shape (d, d); factors in `dtype`.

        Its diagonal must be without the variance of rounding (`rotations.covariance_within`).
        """
        variance = covariance.diagonal()
        total = float(variance.sum())
        std = np.sqrt(variance)
        inverse = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        corr = (covariance * inverse[:, None] * inverse).astype(dtype)
        span = Factor.of(corr, CUT)
        corr.flat[:: len(corr) + 1] += RIDGE
        # A positive R leaves RIDGE at least to every neuron.
        ridge = Factor.of(corr, RIDGE / 2)
        rank = ridge.lower.shape[1]
        half = solve_triangular(ridge.lower[:rank], np.eye(rank, dtype=corr.dtype), lower=True)
        freedom = rank - RIDGE * float(np.square(half).sum())
        if total == 0:
            return cls(std, np.nan, span, ridge, freedom)
        energy = float(np.linalg.norm(covariance / total))
        return cls(std / np.sqrt(total), energy, span, ridge, freedom)


def cka(corr: NDArray, a: Layer, b: Layer) -> float:
    """Linear CKA of two layers: ‖C‖²_F / (‖S_a‖_F ‖S_b‖_F), C their cross-covariance.

    Kornblith et al., 1905.00414: here from covariances.

    Parameters
    ----------
    corr
        Correlations of the neurons of `a` with those of `b`, shape (d_a, d_b); 0 for dead ones.
    a, b
        The two layers.

    Returns
    -------
    float
        From 0 to 1, which is that of a rotated layer; NaN for a layer of dead neurons.
    """
    return float(np.square(_cross(corr, a, b)).sum() / (a.energy * b.energy))


def procrustes(corr: NDArray, a: Layer, b: Layer) -> float:
    """Procrustes similarity of two layers: ‖C‖_* / √(tr S_a tr S_b).

    The nuclear norm is the largest ⟨X, Y Q⟩ of any rotation Q (orthogonal Procrustes problem), so
    this is the cosine of the angular shape metric of Williams et al., 2110.14739. Parameters and
    range as of `cka`.
    """
    if np.isnan(a.energy + b.energy):
        return np.nan
    cross = _cross(corr, a, b).astype(corr.dtype)
    return float(np.linalg.svd(cross, compute_uv=False).sum())


def _cross(corr: NDArray, a: Layer, b: Layer) -> NDArray[np.float64]:
    """C / √(tr S_a tr S_b)."""
    return corr * a.std[:, None] * b.std


def pwcca(corr: NDArray, a: Layer, b: Layer) -> float:
    """Projection-weighted canonical correlation, mean over the projections on either layer.

    Of Morcos et al., 1806.05759: the mean of the canonical correlations ρ_k with the weights
    Σ_j |⟨h_k, x_j⟩| of the canonical variates h_k and a layer's neurons x_j. The variates are of
    the neurons of `Layer.span`: directions with hardly any variance, whose correlations are noise,
    don't enter.

    Parameters and range as of `cka`; 1 of an invertible linear map too, if nothing is cut.
    """
    if np.isnan(a.energy + b.energy):
        return np.nan
    if len(a.span.kept) > len(b.span.kept):
        corr, a, b = corr.T, b, a
    # Its singular values are the canonical correlations.
    white = b.span.solve(a.span.solve(corr).T).T
    # One symmetric problem in place of a decomposition, which takes twice as long.
    squares, left = np.linalg.eigh(white @ white.T)
    rho = np.sqrt(squares.clip(0, 1))
    right = white.T @ left
    norms = np.linalg.norm(right, axis=0)
    right *= np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    both = []
    for layer, vectors in ((a, left), (b, right)):
        # X = Z L⁻ᵀ of the kept neurons, so that ⟨h_k, x_j⟩ = σ_j (L V)_jk.
        projections = (layer.span.lower @ vectors).astype(np.float64)
        weights = layer.std[layer.span.order] @ np.abs(projections)
        both.append(weights @ rho / weights.sum())
    return float(np.mean(both))


def soft_matching(corr: NDArray) -> float:
    """Mean correlation of the best soft matching of two layers' neurons: max_T Σ_ij T_ij r_ij.

    Khosla and Williams, 2311.09466: T moves a mass of 1, even over the neurons of either layer.
    With as many neurons in both it is a one-to-one assignment. Dead neurons count, with
    correlations of 0.

    Parameters
    ----------
    corr
        Correlations of all neurons of two layers, shape (d_a, d_b).

    Returns
    -------
    float
        −1 to 1; 1 of layers that are permutations of each other. NaN for widths whose least common
        multiple is above `LARGEST_PARTS`.
    """
    parts = _parts(corr)
    if parts is None:
        return np.nan
    rows, columns = linear_sum_assignment(parts, maximize=True)
    return float(parts[rows, columns].mean())


def matched(corr: NDArray) -> tuple[float, float]:
    """Partial soft matching: which mass has a partner at all, and how good a one.

    max_T Σ_ij T_ij (r_ij − `UNMATCHED_BELOW`) where T need not move all mass: partial optimal
    transport (as the partial soft matching of Kapoor, Williams and Khosla, 2602.19331) with a
    stated price of unmatched mass in place of a given amount of matched mass.

    Parameters
    ----------
    corr
        See `soft_matching`.

    Returns
    -------
    unmatched
        Mass left without a partner, 0 to 1.
    mean
        Mean correlation of the matched mass, NaN if there is none. Both are NaN where
        `soft_matching` is.
    """
    parts = _parts(corr)
    if parts is None:
        return np.nan, np.nan
    gain = np.maximum(parts - UNMATCHED_BELOW, 0)
    # Whoever gains nothing from anyone stays unmatched.
    gain = gain[gain.any(1)][:, gain.any(0)]
    found = gain[linear_sum_assignment(gain, maximize=True)]
    found = found[found > 0]
    if not len(found):
        return 1.0, np.nan
    return 1 - len(found) / len(parts), float(found.mean()) + UNMATCHED_BELOW


def _parts(corr: NDArray) -> NDArray | None:
    """Correlations with all neurons cut into as many parts of one mass, None if too many."""
    n = lcm(*corr.shape)
    if n > LARGEST_PARTS and len(set(corr.shape)) > 1:
        return None
    for axis, width in enumerate(corr.shape):
        corr = corr if width == n else np.repeat(corr, n // width, axis)
    return corr


def explained(corr: NDArray, layer: Layer, n_tokens: int) -> NDArray[np.float64]:
    """Share of neurons' variance that a ridge regression on all neurons of a layer explains.

    cᵀ (R + λI)⁻¹ c with the correlations c and R of standardised neurons and λ = `RIDGE`, which
    is at most the R² of that regression, adjusted for its degrees of freedom f (`Layer.freedom`):
    1 − (1 − R²) (n − 1) / (n − 1 − f). Noise has cᵀ (R + λI)⁻¹ c = f / n on average, whatever its
    distribution, as far as tokens are independent.

    Parameters
    ----------
    corr
        Correlations of the layer's neurons with others, shape (d, others); 0 for dead ones.
    layer
        The regressors.
    n_tokens
        Number of tokens n.

    Returns
    -------
    ndarray
        Shape (others,), at most 1; around 0 (and below) of noise.
    """
    inside = np.square(layer.ridge.solve(corr)).sum(0, dtype=np.float64)
    return 1 - (1 - inside) * ((n_tokens - 1) / (n_tokens - 1 - layer.freedom))
