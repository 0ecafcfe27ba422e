"""LayerSync (arXiv 2510.12581) for any torch model, with torch alone: `from layersync import LayerSync`."""

from layersync.pairs import PairChoice, rule_pair
from layersync.schedule import TIME_WEIGHTS, TimeRange, WeightSchedule
from layersync.sync import AlignmentTerms, LayerSync

__all__ = ["TIME_WEIGHTS", "AlignmentTerms", "LayerSync", "PairChoice", "TimeRange", "WeightSchedule", "rule_pair"]
