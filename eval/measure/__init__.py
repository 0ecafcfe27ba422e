"""From samples to recorded numbers: the evaluate command, its media, extractors, references and metrics."""
