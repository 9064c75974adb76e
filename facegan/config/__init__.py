"""Settings: frozen objects that check themselves. Help texts, defaults and rules stand here and nowhere else."""

from facegan.config.base import Positive, Settings, choices_of
from facegan.config.export import ExportConfig
from facegan.config.methods import METHODS, NETS, Law, Loss, Nets, defaults_of_nets
from facegan.config.prep import DETECTORS, FIXED_CROPS, PrepConfig, SelectConfig
from facegan.config.train import LENGTHS, TrainConfig

__all__ = [
    "DETECTORS",
    "FIXED_CROPS",
    "LENGTHS",
    "METHODS",
    "NETS",
    "ExportConfig",
    "Law",
    "Loss",
    "Nets",
    "Positive",
    "PrepConfig",
    "SelectConfig",
    "Settings",
    "TrainConfig",
    "choices_of",
    "defaults_of_nets",
]
