"""Where motions come from: procedural moves, and folders in the format of HumanML3D and KIT-ML."""
