"""Our small autoencoder of motion, and how well it gives back what it was given."""
