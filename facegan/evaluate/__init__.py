"""Metrics of samples against real faces."""

from facegan.config.resources import EvalResources
from facegan.evaluate.evaluation import Evaluation, evaluate
from facegan.evaluate.face_metrics import FacesFound, find_faces, keypoint_distance
from facegan.evaluate.fid import Gaussian, frechet_distance, statistics
from facegan.evaluate.manifold import density_coverage, nearest
from facegan.evaluate.memorization import Neighbours, copy_rate, neighbours, neighbours_picture
from facegan.evaluate.ms_ssim import ms_ssim_pairs
from facegan.evaluate.random_net import RANDOM_NET, random_features
from facegan.evaluate.swd import Projections, project, sliced_wasserstein
from facegan.evaluate.target import EvalTarget, find_target

__all__ = [
    "RANDOM_NET",
    "EvalResources",
    "EvalTarget",
    "Evaluation",
    "FacesFound",
    "Gaussian",
    "Neighbours",
    "Projections",
    "copy_rate",
    "density_coverage",
    "evaluate",
    "find_faces",
    "find_target",
    "frechet_distance",
    "keypoint_distance",
    "ms_ssim_pairs",
    "nearest",
    "neighbours",
    "neighbours_picture",
    "project",
    "random_features",
    "sliced_wasserstein",
    "statistics",
]
