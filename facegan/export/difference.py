"""How far what an ONNX file draws lies from what PyTorch draws, for the same latents."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from facegan.nets import Generator
from facegan.nets.noise import latents

_BATCH = 16
_GREYS = 127.5  # grey levels of 1 in the range −1 … 1


@dataclass(frozen=True)
class Difference:
    """In grey levels of 0 … 255, before rounding, over all pixels of all samples."""

    samples: int
    mean_greys: float
    largest_greys: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@torch.inference_mode()
def difference(data: bytes, generator: Generator, samples: int, seed: int) -> Difference:
    """
    Args:
        data: an ONNX file, run by onnxruntime on the CPU.
        generator: in eval mode, on the CPU.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    spec = generator.spec
    draws = latents(samples, spec.latent, seed, "compared", 0, "cpu", spec.law)
    total = largest = 0.0
    for batch in draws.split(_BATCH):
        (images,) = session.run(["images"], {"latents": batch.numpy()})
        apart = np.abs(np.asarray(images, np.float64) - generator(batch).numpy())
        total, largest = total + float(apart.sum()), max(largest, float(apart.max()))
    mean = total / (samples * spec.channels * spec.size**2)
    return Difference(samples, _rounded(mean * _GREYS), _rounded(largest * _GREYS))


def _rounded(value: float) -> float:
    """To three digits: what is behind them differs from CPU to CPU."""
    return float(f"{value:.3g}")
