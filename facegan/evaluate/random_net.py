"""Features of images by a network of random weights: they need no download and favour no data set.

After the random embedding of Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models"
(arXiv:2002.09797), section 3.3. The network is our own, so its values compare only with others of this tool:

- the image in [−1, 1], one channel repeated to three;
- four convolutions 3×3 (stride 2, padding 1, no bias) to 32, 64, 128 and 256 channels, each followed by ReLU;
- the mean and the standard deviation over space of every channel of the image and of the four layers, 966 numbers;
- a projection of these to `FEATURES` = 64, times `SCALE`, so that Fréchet distances of faces are not all 0.00…

All five matrices are orthogonal (Saxe et al. 2014, arXiv:1312.6120), those of the convolutions times √2 to make up for
ReLU. They are drawn by numpy's PCG64 from `SEED` and made orthogonal by QR with a positive diagonal of R: the same on
every machine and with every version of torch. Then each 3×3 filter of the first convolution loses its mean, so that
flat areas give nothing and edges remain.

Without that last step the features were mostly brightness and colour: blur and noise hardly changed the distance of
CelebA faces, and a WGAN's blots came out nearer to them than a DCGAN's faces. The features respond to colours,
contrasts and textures of every size, and little to positions.

N images, C channels, S side.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, relu

FEATURES, SEED, SCALE = 64, 0, 32
RANDOM_NET = "facegan-random-1"  # another net needs another name: their values do not compare
_WIDTHS = (32, 64, 128, 256)


@torch.inference_mode()
def random_features(images: Tensor, batch: int = 128) -> NDArray[np.float32]:
    """uint8 (N, C, S, S) on the CPU, C 1 or 3, S ≥ 16 → float32 (N, 64). Each row depends on its image alone, up to
    rounding.
    """
    projection = _weights()[-1]
    features = np.empty((len(images), FEATURES), np.float32)
    for first in range(0, len(images), batch):
        block = images[first : first + batch].float().div_(127.5).sub_(1)
        pooled = [_mean_and_deviation(layer) for layer in feature_maps(block)]
        features[first : first + batch] = (torch.cat(pooled, dim=1) @ projection.T).numpy()
    return features


def feature_maps(images: Tensor) -> list[Tensor]:
    """float (N, C, S, S) in [−1, 1] → the images in three channels, and the maps of the four layers, (N, 32 …, S / 2 …,
    S / 2 …). They have gradients."""
    maps = [images.expand(-1, 3, -1, -1)]
    for weight in _weights()[:-1]:
        maps.append(relu(conv2d(maps[-1], weight.to(images.device), stride=2, padding=1)))
    return maps


def _mean_and_deviation(block: Tensor) -> Tensor:
    """(N, C, H, W) → (N, 2 C) over space; ten times as fast as `torch.std_mean` on a CPU."""
    pixels = block.flatten(2)
    means = pixels.mean(2)
    lengths = torch.linalg.vector_norm(pixels - means[..., None], dim=2)
    return torch.cat([means, lengths / pixels.shape[2] ** 0.5], dim=1)


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # whoever is the first to need them: gradients pass through them
def _weights() -> tuple[Tensor, ...]:
    """The convolutions (out, in, 3, 3), then the projection (64, 966)."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    inputs, weights = 3, []
    for outputs in _WIDTHS:
        weights.append(np.sqrt(2) * _orthogonal(rng, outputs, inputs * 9).reshape(outputs, inputs, 3, 3))
        inputs = outputs
    weights.append(SCALE * _orthogonal(rng, FEATURES, 2 * sum((3, *_WIDTHS))))
    weights[0] = weights[0] - weights[0].mean((2, 3), keepdims=True)
    return tuple(torch.from_numpy(weight.astype(np.float32)) for weight in weights)


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns) with orthonormal rows, or orthonormal columns if there are fewer of them."""
    drawn = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q *= np.sign(np.diag(r))  # QR is unique only up to these signs
    return q if rows > columns else q.T
