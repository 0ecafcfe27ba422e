"""YAML files of the motion domain, composed by `core.commands.entry`."""
