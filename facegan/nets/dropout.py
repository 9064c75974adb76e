"""Dropout whose masks are drawn by whoever trains: a net holds no random state, so a training can be repeated, taken up
and recorded.

Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 15):
    y = m · x / (1 − p),   m = 0 with probability p, else 1, for each value of each image

N images, K values of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn


class Dropout(nn.Module):
    """In eval mode the identity. In training mode passes stand within `drawn`.

    (N, …) → the same shape. Raises RuntimeError in training mode where nobody draws.
    """

    def __init__(self, rate: float) -> None:
        """
        Args:
            rate: p, the share of values that become 0.
        """
        super().__init__()
        self.rate = rate
        self.uniform: Callable[[int], Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        if self.uniform is None:
            raise RuntimeError(
                "This net has dropout, and in training mode its masks are drawn from outside:\n"
                "call it within facegan.nets.drawn(net, draw), or in eval mode."
            )
        kept = self.uniform(values[0].numel()).view(values.shape) >= self.rate
        return values * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        return str(self.rate)


@contextmanager
def drawn(net: nn.Module, draw: Callable[[int, int], Tensor]) -> Iterator[None]:
    """Passes of ``net`` while entered take their masks from ``draw``.

    Args:
        draw: (number of the layer, K) → (N, K) uniform in [0, 1); N is the batch of the pass.
    """
    layers = [module for module in net.modules() if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.uniform = partial(draw, number)
    try:
        yield
    finally:
        for layer in layers:
            layer.uniform = None
