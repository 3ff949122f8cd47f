"""Encode and measure a layer's activations: codes, those that escape and power sums.

On the CPU int8 codes and all sums come from one pass over the activations, compiled by numba:
separate tensor operations would read them from memory twenty times. Elsewhere, and for the other
encodings, torch does the same step by step.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.activations.calibration import Calibration
from universal_neurons.activations.codes import Codes, Escapes, significant
from universal_neurons.activations.encoding import LIMIT
from universal_neurons.activations.rounding import MULTIPLIER, Dither, encode_int8, stored
from universal_neurons.capture.power_sums import FirstSums, PowerSums, SubsetSums

# Neurons that a thread works on at a time: their accumulators stay in the first-level cache.
_NEURONS = 256

BEYOND = "activations 1e38 times as large as the steps of their codes"


class LayerPass:
    """Codes and sums of one layer of one model, batch by batch.

    Parameters
    ----------
    calibration
        The layer's codes and the centre of its power sums.
    dither
        The layer's random numbers; used by int8.
    encoding
        One of `encoding.ENCODINGS`.
    device
        Where the activations are.
    n_subsets
        Number of subsets of the corpus to take sums of, or 0.
    """

    def __init__(
        self,
        calibration: Calibration,
        dither: Dither,
        encoding: str,
        device: torch.device,
        n_subsets: int = 0,
    ) -> None:
        self._encoding = encoding
        self._dither = dither
        self._ranges = calibration.ranges
        self._scale = torch.from_numpy(calibration.ranges.scale).to(device)
        self._offset = torch.from_numpy(calibration.ranges.offset).to(device)
        centre = torch.from_numpy(calibration.centre).to(device)
        self._sums = PowerSums(centre)
        self._first = FirstSums(centre)
        self._subsets = SubsetSums(centre, n_subsets) if n_subsets else None
        d_mlp = len(calibration.centre)
        self._code_sum = torch.zeros(d_mlp, dtype=torch.float64, device=device)
        self._escapes = np.zeros(d_mlp, np.int64)
        self._rest_sum = np.zeros(d_mlp)
        self._buffer = np.empty((0, d_mlp), np.int8)

    def add(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        token_index: NDArray[np.int64],
        labels: NDArray[np.integer] | None = None,
        first: torch.Tensor | None = None,
    ) -> Codes | None:
        """Take a batch.

        Parameters
        ----------
        x
            Activations, shape (tokens, d_mlp).
        rows
            Which of the tokens are scored: indices, shape (scored,).
        token_index
            Shape (scored,): their positions in the corpus.
        labels
            Shape (scored,): their subsets, if sums of these are taken.
        first
            Those of `rows` that are at position 0 of their sequences.

        Returns
        -------
        Codes or None
            Of shape (scored, d_mlp), valid until the next call; in the float encodings the
            activations as they are stored. None if an activation is not finite.

        Raises
        ------
        OverflowError
            If a code is.
        """
        if first is not None:
            self._first.update(x[first])
        if self._subsets is not None and labels is not None:
            self._subsets.update(x[rows], labels)
        if self._encoding == "int8" and x.device.type == "cpu":
            return self._add_compiled(x, rows, token_index)
        x = x[rows]
        if not self._sums.update(x):
            return None
        if self._encoding == "int8":
            codes = encode_int8(x, self._scale, self._offset, self._dither(token_index))
            self._code_sum += codes.dense.sum(0, dtype=torch.float64)
            return self._counted(codes)
        values = stored(x, self._encoding)
        codes_of_batch = (values.float() - self._offset) / self._scale
        self._code_sum += codes_of_batch.sum(0, dtype=torch.float64)
        if not torch.isfinite(self._code_sum).all():
            raise OverflowError(BEYOND)
        return Codes.of(values)

    def _counted(self, codes: Codes) -> Codes:
        """Take the escapes of a batch into the sums."""
        found = codes.escapes
        if not np.isfinite(found.code).all():
            raise OverflowError(BEYOND)
        self._escapes += np.bincount(found.neuron, minlength=len(self._escapes))
        self._rest_sum += np.bincount(found.neuron, found.rest, len(self._rest_sum))
        return codes

    def _add_compiled(
        self, x: torch.Tensor, rows: torch.Tensor, token_index: NDArray[np.int64]
    ) -> Codes | None:
        if x.dtype == torch.bfloat16:
            bits, shift = x.contiguous().view(torch.uint16).numpy(), 16
        else:
            bits, shift = x.float().contiguous().view(torch.uint32).numpy(), 0
        if len(rows) > len(self._buffer):
            self._buffer = np.empty((len(rows), x.shape[1]), np.int8)
        codes = self._buffer[: len(rows)]
        place = rows.numpy()
        tokens, neurons = (words.numpy() for words in self._dither.words(token_index))
        scale, offset = 1 / self._ranges.scale, self._ranges.offset
        beyond = np.zeros((len(rows), -(-x.shape[1] // _NEURONS)), np.int32)
        _encode_and_sum(
            bits,
            shift,
            place,
            scale,
            offset,
            tokens,
            neurons,
            self._sums.centre.numpy(),
            codes,
            beyond,
            self._sums.powers.numpy(),
            self._sums.low.numpy(),
            self._sums.high.numpy(),
            self._sums.positive.numpy(),
            self._code_sum.numpy(),
        )
        if not self._sums.finite():
            return None
        found = Escapes.none()
        if n := int(beyond.sum()):
            found = Escapes(np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.float32))
            _find_escapes(
                *(bits, shift, place, scale, offset, tokens, neurons, beyond),
                *(found.row, found.neuron, found.code),
            )
            found = Escapes(found.row, found.neuron, significant(found.code))
        return self._counted(Codes(torch.from_numpy(codes), found))

    def arrays(self) -> dict[str, NDArray]:
        """The sums, for `moments.merge`."""
        return {
            **self._sums.arrays(),
            **self._first.arrays(),
            **(self._subsets.arrays() if self._subsets is not None else {}),
            "scale": self._ranges.scale,
            "escapes": self._escapes,
            "code_sum": self._code_sum.cpu().numpy() + self._rest_sum,
        }


@numba.njit(cache=True, nogil=True, inline="always")
def _exact(value, scale, offset, token, neuron):  # pragma: no cover - compiled
    """A whole code, as `encode_int8` makes it; `scale` is the inverse step."""
    h = np.int32((token ^ neuron) * np.int32(MULTIPLIER))
    h = np.int32((h ^ (h >> np.int32(15))) * np.int32(MULTIPLIER))
    u = np.float32(h) * np.float32(2.0**-32)
    return np.floor((u + (value - offset) * scale) + np.float32(0.5))


@numba.njit(parallel=True, cache=True, nogil=True)
def _encode_and_sum(
    bits,
    shift,
    rows,
    inverse,
    offset,
    token_words,
    neuron_words,
    centre,
    codes,
    beyond,
    powers,
    low,
    high,
    positive,
    code_sum,
):  # pragma: no cover - compiled
    """`encode_int8` and `PowerSums.update` in one; `bits` are float32's, or its upper half's.

    `beyond` becomes the number of escapes of every token in every block of neurons.
    """
    d_mlp = bits.shape[1]
    for block in numba.prange((d_mlp + _NEURONS - 1) // _NEURONS):
        first = block * _NEURONS
        stop = min(first + _NEURONS, d_mlp)
        width = stop - first
        # Copies: the compiler then knows that none of these overlap, and vectorises.
        scale, base = inverse[first:stop].copy(), offset[first:stop].copy()
        words, middle = neuron_words[first:stop].copy(), centre[first:stop].copy()
        least, most = low[first:stop].copy(), high[first:stop].copy()
        p1, p2 = np.zeros(width), np.zeros(width)
        p3, p4 = np.zeros(width), np.zeros(width)
        above, total = np.zeros(width, np.int32), np.zeros(width, np.int32)
        word = np.empty(width, np.uint32)
        value = word.view(np.float32)
        for r in range(len(rows)):
            row = bits[rows[r], first:stop]
            code = codes[r, first:stop]
            token = token_words[r]
            for j in range(width):
                word[j] = np.uint32(row[j]) << np.uint32(shift)
            for j in range(width):
                x = value[j]
                least[j] = min(least[j], x)
                most[j] = max(most[j], x)
                above[j] += x > 0
                d = np.float64(x) - middle[j]
                square = d * d
                p1[j] += d
                p2[j] += square
                p3[j] += d * square
                p4[j] += square * square
            cut = np.int32(0)
            for j in range(width):
                exact = _exact(value[j], scale[j], base[j], token, words[j])
                kept = min(max(exact, np.float32(-LIMIT)), np.float32(LIMIT))
                cut += np.int32(kept != exact)
                code[j] = np.int8(kept)
                total[j] += np.int32(kept)
            beyond[r, block] = cut
        low[first:stop], high[first:stop] = least, most
        for j in range(width):
            powers[0, first + j] += p1[j]
            powers[1, first + j] += p2[j]
            powers[2, first + j] += p3[j]
            powers[3, first + j] += p4[j]
            positive[first + j] += above[j]
            code_sum[first + j] += total[j]


@numba.njit(cache=True, nogil=True)
def _find_escapes(
    bits,
    shift,
    rows,
    inverse,
    offset,
    token_words,
    neuron_words,
    beyond,
    row_of,
    neuron_of,
    code_of,
):  # pragma: no cover - compiled
    """Whole codes of what `_encode_and_sum` counted, token by token."""
    word = np.empty(1, np.uint32)
    value = word.view(np.float32)
    found = 0
    for r in range(len(rows)):
        for block in range(beyond.shape[1]):
            if not beyond[r, block]:
                continue
            for j in range(block * _NEURONS, min((block + 1) * _NEURONS, bits.shape[1])):
                word[0] = np.uint32(bits[rows[r], j]) << np.uint32(shift)
                exact = _exact(value[0], inverse[j], offset[j], token_words[r], neuron_words[j])
                if abs(exact) > LIMIT:
                    row_of[found], neuron_of[found], code_of[found] = r, j, exact
                    found += 1
