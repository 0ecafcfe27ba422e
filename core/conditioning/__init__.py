"""What a sample is asked to be: classes, tags, texts or nothing, with the modules that embed them."""
