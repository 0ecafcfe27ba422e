"""From media to latents: KL tokenizers, the files they are read from, their training, the latent cache."""
