"""The blocks of a trained backbone: tokens captured on real data, and what is computed and drawn of them."""
