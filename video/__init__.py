"""Video: data sets, tokenizers, backbones and measures of clips, and the commands `python -m video.train` and others."""

from core.processes.starting import answer_signals

answer_signals()
