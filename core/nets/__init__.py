"""Networks: the building blocks of diffusion transformers, and SiT over any grid."""
