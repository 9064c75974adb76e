"""Settings: frozen objects that check themselves. Help texts, defaults and rules stand here and nowhere else."""

from facegan.config.base import Positive, Settings, choices_of
from facegan.config.evaluate import METRIC_TABLE, TRAINING_METRICS, EvalConfig, Metric, metric_of
from facegan.config.prep import DETECTORS, FIXED_CROPS, PrepConfig, SelectConfig
from facegan.config.sample import AttributeChoice, DirectionsConfig, ExportConfig, ProjectConfig, SampleConfig
from facegan.config.train import (
    CONDITIONAL_NETS,
    LENGTHS,
    METHODS,
    NETS,
    LatentDistribution,
    Loss,
    Nets,
    TrainConfig,
    defaults_of_nets,
)

__all__ = [
    "CONDITIONAL_NETS",
    "DETECTORS",
    "FIXED_CROPS",
    "LENGTHS",
    "METHODS",
    "METRIC_TABLE",
    "NETS",
    "TRAINING_METRICS",
    "AttributeChoice",
    "DirectionsConfig",
    "EvalConfig",
    "ExportConfig",
    "LatentDistribution",
    "Loss",
    "Metric",
    "Nets",
    "Positive",
    "PrepConfig",
    "ProjectConfig",
    "SampleConfig",
    "SelectConfig",
    "Settings",
    "TrainConfig",
    "choices_of",
    "defaults_of_nets",
    "metric_of",
]
