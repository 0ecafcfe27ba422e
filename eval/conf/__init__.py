"""YAML files of the eval entries."""
