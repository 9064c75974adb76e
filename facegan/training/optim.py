"""How weights change: optimizers, the learning rates over a training, and the generator's moving average.

The optimizers' state exists from the start: a checkpoint always has the same tensors, a CUDA graph finds them at their
addresses, and fused kernels find each moment in the memory layout of its weight.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from facegan.config import TrainConfig
from facegan.nets import Generator, draw_inputs
from facegan.training.precision import Precision

RAMP_UP = 0.05  # the half-life is at most this share of the images seen: early weights fade soon
STATISTICS_BATCHES, STATISTICS_BATCH = 8, 64
_ALIGNED = 32  # numbers: 128 bytes, for the vector loads of fused kernels


def make_optimizer(net: nn.Module, learning_rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, RMSProp or SGD: fused where the device has such kernels, and capturable as a CUDA graph on a GPU."""
    parameters = list(net.parameters())
    device = parameters[0].device
    on_gpu, fused = device.type == "cuda", device.type in ("cpu", "cuda")
    rate = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate  # a graph would keep a number
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
        aligned = [-(-parameter.numel() // _ALIGNED) * _ALIGNED for parameter in net.parameters()]
        self.gradient = torch.zeros(sum(aligned), device=self.device)
        for parameter, flat in zip(net.parameters(), self.gradient.split(aligned), strict=True):
            parameter.grad = flat.as_strided(parameter.shape, parameter.stride())  # in the layout of the weight

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


# Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN" (arXiv:1912.04958), as their code has it:
#   θ̄ ← β θ̄ + (1 − β) θ,   β = ½^(B / h),   h = min(half-life, 0.05 · images seen),   B images per step
def ema_beta(step_images: int, images_seen: int, half_life_images: float) -> float:
    """β of one update; 0 (no average, only the latest weights) for a half-life of 0."""
    half_life = min(half_life_images, RAMP_UP * images_seen)
    return 0.5 ** (step_images / half_life) if half_life > 0 else 0.0


class Ema:
    """Averages a generator's parameters and batch-norm buffers, in float32.

    ``net`` holds the averages. Draw samples from `generator`, never from ``net`` itself. With ``weight_on_device`` the
    weight of an update is a tensor: a CUDA graph would keep a number forever.
    """

    def __init__(self, generator: Generator, half_life_images: float, *, weight_on_device: bool = False) -> None:
        self.half_life_images = half_life_images
        self.net = copy.deepcopy(generator).requires_grad_(False)
        own, sources = ([*net.parameters(), *net.buffers()] for net in (self.net, generator))
        self._averages, self._sources = ([t for t in ts if t.is_floating_point()] for ts in (own, sources))
        self._counters, self._source_counters = ([t for t in ts if not t.is_floating_point()] for ts in (own, sources))
        device = next(generator.parameters()).device
        self._weight: float | Tensor = torch.ones((), device=device) if weight_on_device else 1.0

    def set_decay(self, step_images: int, images_seen: int) -> None:
        """Sets the weight of the next update; does not wait for the device."""
        weight = 1 - ema_beta(step_images, images_seen, self.half_life_images)
        if isinstance(self._weight, Tensor):
            self._weight.fill_(weight)
        else:
            self._weight = weight

    @torch.no_grad()
    def update(self) -> None:
        # One kernel over all tensors, as in torch's own optimizers; these functions have no public names.
        kernels: Any = torch
        if isinstance(self._weight, Tensor):  # _foreach_lerp_ takes no tensor
            changes = kernels._foreach_sub(self._sources, self._averages)
            kernels._foreach_mul_(changes, self._weight)
            kernels._foreach_add_(self._averages, changes)
        else:
            kernels._foreach_lerp_(self._averages, self._sources, self._weight)
        if self._counters:  # only nets with batch norm have some
            kernels._foreach_copy_(self._counters, self._source_counters)

    @torch.no_grad()
    def generator(self, seed: int) -> Generator:
        """A copy in eval mode with batch-norm statistics from fixed latents, which follow from ``seed``.

        Averaged weights give other activations than the weights whose running statistics were averaged (Izmailov et
        al. 2018, arXiv:1803.05407, section 3.2). On drawn discs at 32×32, pixels in eval mode differed from those under
        batch statistics by 0.05 to 0.08 after 40 steps and by 0.006 to 0.014 after 240; with new statistics, by 0.002.
        """
        net = copy.deepcopy(self.net)
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
        net.train()
        device = next(net.parameters()).device
        for batch in range(STATISTICS_BATCHES if norms else 0):
            net(draw_inputs(net.spec, STATISTICS_BATCH, seed, "batch-norm statistics", batch, device))
        return net.eval()
