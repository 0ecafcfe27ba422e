"""Video: moving digits, folders of clips, CLEVRER and UCF-101 with SiT over frames, rows and columns."""

from core.processes.starting import answer_signals

answer_signals()
