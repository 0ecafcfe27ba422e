"""Whatever measures: the public commands here, what they are made of in the folders; knows no modality."""

from core.processes.starting import answer_signals

answer_signals()
