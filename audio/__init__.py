"""Sound: notes, folders of music and MTG-Jamendo with SiT over time."""

from core.processes.starting import answer_signals

answer_signals()
