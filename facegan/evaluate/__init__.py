"""Samples against real faces."""

from facegan.evaluate.evaluation import Means, evaluate
from facegan.evaluate.frechet import Gaussian, frechet_distance, statistics
from facegan.evaluate.manifold import density_coverage, nearest
from facegan.evaluate.memorised import Neighbours, copied_share, neighbours, neighbours_picture
from facegan.evaluate.ms_ssim import ms_ssim_pairs
from facegan.evaluate.one_face import FacesFound, find_faces, keypoint_distance
from facegan.evaluate.random_net import RANDOM_NET, random_features
from facegan.evaluate.result import Evaluation
from facegan.evaluate.subject import Subject, find_subject
from facegan.evaluate.swd import Projections, project, sliced_wasserstein

__all__ = [
    "RANDOM_NET",
    "Evaluation",
    "FacesFound",
    "Gaussian",
    "Means",
    "Neighbours",
    "Projections",
    "Subject",
    "copied_share",
    "density_coverage",
    "evaluate",
    "find_faces",
    "find_subject",
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
