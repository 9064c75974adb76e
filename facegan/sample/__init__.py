"""What a trained generator draws, as files: grids, folders, datasets, films of walks and of how it learnt."""

from facegan.sample.dataset import write_shards
from facegan.sample.generate import Latents, make_latents
from facegan.sample.images import best_of, count_samples, write_grid, write_pictures
from facegan.sample.interpolate import write_interpolation, write_progress
from facegan.sample.video import Animation, check_animation

__all__ = [
    "Animation",
    "Latents",
    "best_of",
    "check_animation",
    "count_samples",
    "make_latents",
    "write_grid",
    "write_interpolation",
    "write_pictures",
    "write_progress",
    "write_shards",
]
