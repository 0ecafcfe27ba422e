"""The moving body: skeletons, the published numbers of a frame, and the way back to joints."""
