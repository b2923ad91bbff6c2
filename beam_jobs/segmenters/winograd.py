"""3x3 convolutions of wide layers in float32 with fewer multiplications: minimal filtering.

Two neighbouring outputs of a filter with three taps need four products instead of six (Winograd; Lavin and Gray 2016,
arXiv:1509.09308, F(2x2, 3x3)); behind a nearest-neighbour doubling, where two taps see the same pixel, three products. In two
dimensions that is 16 or 9 instead of 36. The products are matrix products over channels, which processors do best. Results
differ from the plain convolution by rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class _Scheme(NamedTuple):
    """One-dimensional matrices: products = (taps_to_terms @ taps) * (kernel_to_factors @ kernel); outputs = sums @ products."""

    taps_to_terms: tuple[tuple[int, ...], ...]
    kernel_to_factors: tuple[tuple[float, ...], ...]
    sums: tuple[tuple[int, ...], ...]
    tap_step: int


_PLAIN = _Scheme(
    taps_to_terms=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    kernel_to_factors=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    sums=((1, 1, 1, 0), (0, 1, -1, -1)),
    tap_step=2,
)
_DOUBLED = _Scheme(
    taps_to_terms=((1, -1, 0), (0, 1, 0), (0, -1, 1)),
    kernel_to_factors=((1, 0, 0), (1, 1, 1), (0, 0, 1)),
    sums=((1, 1, 0), (0, 1, 1)),
    tap_step=1,
)


class WinogradConv(nn.Module):
    """A 3x3 convolution with zero padding of 1; takes and gives float32[N, C, H, W], quickest in channels-last memory."""

    def __init__(self, conv: nn.Conv2d, *, doubles: bool = False):
        """Prepares the kernels.

        Args:
          conv: with bias.
          doubles: the input is first doubled in height and width, nearest neighbour; otherwise its sides are even.
        """
        super().__init__()
        self._scheme = _DOUBLED if doubles else _PLAIN
        factors = torch.tensor(self._scheme.kernel_to_factors, dtype=torch.float32)
        kernels = torch.einsum("ak,oikl,bl->abio", factors, conv.weight, factors)
        self.register_buffer("kernels", kernels.flatten(0, 1).contiguous())
        self.register_buffer("bias", conv.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolves."""
        scheme, step = self._scheme, self._scheme.tap_step
        x = x.permute(0, 2, 3, 1)
        num_images, height, width, num_in = x.shape
        num_rows, num_columns = height // step, width // step
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        num_taps, num_terms = len(scheme.taps_to_terms[0]), len(scheme.taps_to_terms)
        terms = x.new_empty(num_terms, num_terms, num_images, num_rows, num_columns, num_in)
        row_taps = [padded[:, tap : tap + height : step] for tap in range(num_taps)]
        for row, row_signs in enumerate(scheme.taps_to_terms):
            line = _signed_sum(row_taps, row_signs)
            column_taps = [line[:, :, tap : tap + width : step] for tap in range(num_taps)]
            for column, column_signs in enumerate(scheme.taps_to_terms):
                terms[row, column] = _signed_sum(column_taps, column_signs)
        products = torch.bmm(terms.view(num_terms**2, -1, num_in), self.kernels)
        products = products.view(num_terms, num_terms, num_images, num_rows, num_columns, -1)
        result = x.new_empty(num_images, 2 * num_rows, 2 * num_columns, products.shape[-1])
        for row, row_signs in enumerate(scheme.sums):
            line = _signed_sum(list(products), row_signs)
            for column, column_signs in enumerate(scheme.sums):
                torch.add(_signed_sum(list(line), column_signs), self.bias, out=result[:, row::2, column::2])
        return result.permute(0, 3, 1, 2)


def _signed_sum(tensors: Sequence[torch.Tensor], signs: Sequence[int]) -> torch.Tensor:
    """Adds the tensors whose sign is not 0; the first of them in `signs` order with sign 1 starts the sum."""
    order = sorted((-sign, index) for index, sign in enumerate(signs) if sign)
    total = tensors[order[0][1]]
    for negated, index in order[1:]:
        total = torch.add(total, tensors[index], alpha=-negated)
    return total
