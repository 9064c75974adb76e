"""Optimizers whose state exists from the start, and the learning rates over a training.

So a state has the same tensors at every image, a CUDA graph finds them in place, and fused kernels find each moment in
the layout of its weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from facegan.config import TrainConfig


def make_optimizer(net: nn.Module, learning_rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, RMSProp or SGD, with kernels fused where the device has them, and steps that a CUDA graph can record.

    On a CUDA GPU the learning rate is a tensor there: a number would be baked into a recorded graph.
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


def optimizer_state(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the state by the names of the parameters; the tensors themselves."""
    return {
        f"{name}.{key}": tensor
        for name, parameter in net.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Changes the learning rate, in place where it is a tensor; does not wait for the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


# With t the share of the training that is done: 1; or ½ (1 + cos π t), Loshchilov & Hutter 2017, "SGDR"
# (arXiv:1608.03983), without restarts; or 1 − t. A plateau is no matter of t: `facegan.train.plateau`.
def schedule_factor(schedule: str, images: int, total_images: int) -> float:
    """What multiplies the learning rates when ``images`` of ``total_images`` are done."""
    done = min(images / total_images, 1.0)
    factors = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done}
    return factors.get(schedule, 1.0)
