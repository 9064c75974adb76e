"""A loss by its name: one of facegan's, or a user's own, tried out before anything is trained by it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from facegan.errors import SettingsError, one_of, suggest
from facegan.own import is_own, own_object
from facegan.train.rounds.losses import LOSSES, Loss


def find_loss(name: str) -> Loss:
    """
    Raises:
        SettingsError: there is none of that name; a user's own can't be imported, or is none.
    """
    if name in LOSSES:
        return LOSSES[name]
    if not is_own(name):
        raise SettingsError(f"There is no loss '{name}': choose {one_of(LOSSES)}.{suggest(name, LOSSES)}")
    loss = own_object("train.loss =", name)
    if not isinstance(loss, Loss):
        raise SettingsError(
            f"train.loss = {name} is a {type(loss).__name__}: it has to be a\n"
            "facegan.train.Loss(DISCRIMINATOR, GENERATOR), two functions of logits."
        )
    return loss


def try_loss(name: str, loss: Loss) -> None:
    """Both of its functions, on four logits of each kind.

    Raises:
        SettingsError: one raises, gives no finite scalar, or nothing that could be learnt from.
    """
    real = torch.tensor([-0.3, -0.2, -0.8, -0.1], requires_grad=True)
    fake = torch.tensor([-0.4, -0.9, -0.2, -0.5], requires_grad=True)
    more: list[tuple[Tensor | float, ...]] = [(torch.tensor(0.3),)] if loss.autoencoder else [()]
    if loss.smooths:
        more.append((0.1,))
    for others in more:
        _try(name, "discriminator", loss.discriminator, (real, fake, *others), real)
    _try(name, "generator", loss.generator, (fake, real) if loss.pairs else (fake,), fake)


def _try(
    name: str, kind: str, function: Callable[..., Tensor], given: tuple[Tensor | float, ...], learns: Tensor
) -> None:
    what = f"train.loss = {name}: its {kind}'s function"
    try:
        found = function(*given)
    except Exception as error:  # anything may go wrong in a user's code: it is told as a sentence
        raise SettingsError(
            f"{what} fails on {len(given)} arguments: {type(error).__name__}: {error}\n"
            "facegan.train.Loss says what each of the two is given."
        ) from error
    if not isinstance(found, Tensor) or found.shape != () or not found.isfinite():
        shown = f"the shape {tuple(found.shape)}" if isinstance(found, Tensor) and found.ndim else found
        raise SettingsError(f"{what} gives {shown}: it has to give one finite number, a mean over the batch.")
    if not found.requires_grad or torch.autograd.grad(found, learns, allow_unused=True)[0] is None:
        raise SettingsError(f"{what} does not depend on the logits that it has to learn from.")
