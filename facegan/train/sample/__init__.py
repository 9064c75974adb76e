"""What a trained generator draws, as files: grids, folders, datasets, films of walks and of how it learnt."""

from facegan.train.sample.dataset import write_shards
from facegan.train.sample.film import Film, check_film
from facegan.train.sample.grown import write_grown
from facegan.train.sample.latents import Latents, latents_of
from facegan.train.sample.pictures import write_grid, write_pictures
from facegan.train.sample.plan import count_samples
from facegan.train.sample.runs import best_of
from facegan.train.sample.walk import write_walk

__all__ = [
    "Film",
    "Latents",
    "best_of",
    "check_film",
    "count_samples",
    "latents_of",
    "write_grid",
    "write_grown",
    "write_pictures",
    "write_shards",
    "write_walk",
]
