"""The processes of a job: who they are, how a model is spread over them, signals and failures."""
