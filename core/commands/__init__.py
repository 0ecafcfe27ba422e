"""The commands that every domain has, without what a domain adds; how a command line becomes a config."""
