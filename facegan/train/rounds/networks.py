"""A net that learns: its weights, gradients, optimizer and, in fp16, the scale of its loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from facegan.config import TrainConfig
from facegan.train.rounds.optimizers import make_optimizer, optimizer_state
from facegan.train.rounds.precision import Precision

_ALIGNED = 32  # numbers: 128 bytes, what vector loads of fused kernels want


class Learner:
    """Gradients lie in one flat tensor: one kernel zeroes it in place, one all-reduce sums it over processes.

    Weights, gradients and the optimizer's state are float32 whatever the precision of the passes.
    """

    def __init__(self, net: nn.Module, learning_rate: float, config: TrainConfig, precision: Precision) -> None:
        self.net = net
        self.device = next(net.parameters()).device
        self.optimizer = make_optimizer(net, learning_rate, config)
        # Micikevicius et al. 2018, "Mixed precision training" (arXiv:1710.03740). One a net, updated after each step.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._one = torch.ones((), device=self.device)
        self.scaler.scale(self._one)  # makes the tensor of the scale, which a recording has to find in place
        self.gradient = torch.zeros(sum(_room(p) for p in net.parameters()), device=self.device)
        for parameter, place in self._places():
            parameter.grad = place

    def _places(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        start = 0
        for parameter in self.net.parameters():
            flat = self.gradient[start : start + parameter.numel()]
            yield parameter, flat.as_strided(parameter.shape, parameter.stride())  # in the layout of the weight
            start += _room(parameter)

    def zero_grad(self) -> None:
        self.gradient.zero_()

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradient."""
        self.scaler.scale(loss).backward()

    def gradient_norm(self) -> Tensor:
        """L2 norm of the gradient; 0 where an fp16 gradient overflowed, since that step is left out."""
        norm = self.gradient.norm() / self.scaler.scale(self._one)
        return norm.nan_to_num(0.0, 0.0) if self.scaler.is_enabled() else norm

    def step(self) -> Tensor | int:
        """Changes the weights; gives 1 where the scaler left the step out because the gradient overflowed, else 0."""
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return 0
        before = self.scaler.scale(self._one)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.scale(self._one) < before  # it lowers the scale then, and only then

    @torch.no_grad()
    def clip(self, bound: float) -> None:
        """Keeps every weight within ±``bound``."""
        for parameter in self.net.parameters():
            parameter.clamp_(-bound, bound)

    @property
    def records(self) -> bool:
        """Whether a step can be part of a CUDA graph: no number of it is read back."""
        return not self.scaler.is_enabled() or hasattr(self.optimizer, "_step_supports_amp_scaling")

    def tensors(self) -> dict[str, Tensor]:
        return optimizer_state(self.optimizer, self.net)

    def scaler_state(self) -> dict[str, Any]:
        return self.scaler.state_dict()


def _room(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // _ALIGNED) * _ALIGNED
