"""YAML files of the commands of eval, and the keys that every domain's evaluate command shares."""
