"""Motion of skeletons: procedural moves, HumanML3D and KIT-ML with SiT over frames and MDM."""

from core.processes.starting import answer_signals

answer_signals()
