"""Images: digits, folders and ImageNet with SiT."""

from core.processes.starting import answer_signals

answer_signals()
