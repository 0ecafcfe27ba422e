"""Published weights of evaluators: the registry, where they lie, how they are fetched."""
