"""What an image is asked to be: its class."""

from core.conditioning.labels import LabelConditioning, LabelConfig

__all__ = ["LabelConditioning", "LabelConfig"]
