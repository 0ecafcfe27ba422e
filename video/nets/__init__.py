"""Networks of video's own: Latte, and image weights spread over frames."""
