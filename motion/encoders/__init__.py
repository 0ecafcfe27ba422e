"""Published evaluators of motion and text: movement, motion and text encoders, MARDM's, their words and statistics."""
