"""Published weights of evaluators and tokenizers: the registry, where they lie, how they are fetched."""
