"""Looking into the blocks of a trained backbone: tokens, analyses, probes, figures."""
