"""Whatever measures: the public commands here, what they are made of in the folders; knows no modality."""
