"""Settings: frozen objects that check themselves. Help texts, defaults and rules stand here and nowhere else."""

from facegan.config.base import Positive, Settings, choices_of
from facegan.config.evaluate import EvalConfig
from facegan.config.export import ExportConfig
from facegan.config.methods import METHODS, NETS, Law, Loss, Nets, defaults_of_nets
from facegan.config.metrics import METRIC_TABLE, ON_THE_WAY, Metric, better_of, metric_of
from facegan.config.prep import DETECTORS, FIXED_CROPS, PrepConfig, SelectConfig
from facegan.config.sample import SampleConfig
from facegan.config.train import LENGTHS, TrainConfig

__all__ = [
    "DETECTORS",
    "FIXED_CROPS",
    "LENGTHS",
    "METHODS",
    "METRIC_TABLE",
    "NETS",
    "ON_THE_WAY",
    "EvalConfig",
    "ExportConfig",
    "Law",
    "Loss",
    "Metric",
    "Nets",
    "Positive",
    "PrepConfig",
    "SampleConfig",
    "SelectConfig",
    "Settings",
    "TrainConfig",
    "better_of",
    "choices_of",
    "defaults_of_nets",
    "metric_of",
]
