"""Published networks that look at clips: I3D in two forms, VideoMAE, and Inception on single frames."""
