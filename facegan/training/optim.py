"""Optimizers whose state exists from the start, and the learning rates over a training.

So a checkpoint always has the same tensors, a CUDA graph finds them at their addresses, and fused kernels find each
moment in the memory layout of its weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from facegan.config import TrainConfig
from facegan.training.precision import Precision

_ALIGNED = 32  # numbers: 128 bytes, for the vector loads of fused kernels


def make_optimizer(net: nn.Module, learning_rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, RMSProp or SGD: fused where the device has such kernels, and capturable as a CUDA graph on a GPU.

    On a CUDA GPU the learning rate is a tensor there: a captured graph would keep a number forever.
    """
    parameters = list(net.parameters())
    device = parameters[0].device
    on_gpu, fused = device.type == "cuda", device.type in ("cpu", "cuda")
    rate = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adam":
        # Kingma & Ba 2015, "Adam: a method for stochastic optimization" (arXiv:1412.6980)
        betas = (config.beta1, config.beta2)
        optimizer = torch.optim.Adam(parameters, rate, betas=betas, fused=fused or None, capturable=on_gpu)
        states = ("step", "exp_avg", "exp_avg_sq")
    elif config.optimizer == "rmsprop":
        # Tieleman & Hinton 2012, "Lecture 6.5: RMSProp", COURSERA
        optimizer = torch.optim.RMSprop(
            parameters, rate, alpha=config.beta2, momentum=config.momentum, capturable=on_gpu, foreach=True
        )
        states = ("step", "square_avg", *(["momentum_buffer"] if config.momentum else []))
    else:
        optimizer = torch.optim.SGD(parameters, rate, momentum=config.momentum, fused=fused or None)
        states = ("momentum_buffer",) if config.momentum else ()
    step_on = device if fused and (config.optimizer == "adam" or on_gpu) else torch.device("cpu")
    for parameter in parameters:
        optimizer.state[parameter] = {
            name: torch.zeros((), device=step_on) if name == "step" else torch.zeros_like(parameter) for name in states
        }
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Changes the learning rate, in place where it is a tensor; does not wait for the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


# With t the share of the training that is done: 1; or ½ (1 + cos π t), Loshchilov & Hutter 2017, "SGDR"
# (arXiv:1608.03983), without restarts; or 1 − t.
def schedule_factor(schedule: str, images: int, total_images: int) -> float:
    """The factor of the learning rates after ``images`` of ``total_images``."""
    done = min(images / total_images, 1.0)
    factors = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done}
    return factors.get(schedule, 1.0)


class NetOptimizer:
    """A net with its gradients, its optimizer and, in fp16, the scale of its loss.

    Gradients are views of one flat tensor: one kernel zeroes it in place, one all-reduce sums it over processes.
    Weights, gradients and the optimizer's state are float32 whatever the precision of the passes.
    """

    def __init__(self, net: nn.Module, learning_rate: float, config: TrainConfig, precision: Precision) -> None:
        self.net = net
        self.device = next(net.parameters()).device
        self.optimizer = make_optimizer(net, learning_rate, config)
        # Micikevicius et al. 2018, "Mixed precision training" (arXiv:1710.03740). One per net, updated after each step.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._one = torch.ones((), device=self.device)
        self.scaler.scale(self._one)  # creates the tensor of the scale, whose address a CUDA graph needs
        self.gradient = torch.zeros(sum(_aligned(p) for p in net.parameters()), device=self.device)
        for parameter, gradient in self._views():
            parameter.grad = gradient

    def _views(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        start = 0
        for parameter in self.net.parameters():
            flat = self.gradient[start : start + parameter.numel()]
            yield parameter, flat.as_strided(parameter.shape, parameter.stride())  # in the layout of the weight
            start += _aligned(parameter)

    def zero_grad(self) -> None:
        self.gradient.zero_()

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradient."""
        self.scaler.scale(loss).backward()

    def gradient_norm(self) -> Tensor:
        """L2 norm of the gradient; 0 where an fp16 gradient overflowed, because that step is skipped."""
        norm = self.gradient.norm() / self.scaler.scale(self._one)
        return norm.nan_to_num(0.0, 0.0) if self.scaler.is_enabled() else norm

    def step(self) -> Tensor | int:
        """Updates the weights. Returns 1 where the scaler skipped the step because the gradient overflowed, else 0."""
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return 0
        before = self.scaler.scale(self._one)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.scale(self._one) < before  # it lowers the scale then, and only then

    @torch.no_grad()
    def clip(self, bound: float) -> None:
        """Clamps every weight to ±``bound``."""
        for parameter in self.net.parameters():
            parameter.clamp_(-bound, bound)

    @property
    def can_be_captured(self) -> bool:
        """Whether a step can be part of a CUDA graph: it reads no number back."""
        return not self.scaler.is_enabled() or hasattr(self.optimizer, "_step_supports_amp_scaling")

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the optimizer's state by the names of the parameters; the tensors themselves."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self.net.named_parameters()
            for key, tensor in self.optimizer.state[parameter].items()
        }


def _aligned(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // _ALIGNED) * _ALIGNED
