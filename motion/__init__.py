"""Motion: skeletons that walk, jump and wave as a caption says, with SiT and MDM over frames."""

from core.processes.starting import answer_signals

answer_signals()
