"""AMASS and the index of HumanML3D: recordings of body models, cut into clips."""
