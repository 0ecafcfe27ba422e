"""Networks that hear clips or read captions: CLAP, VGGish, classifiers, text encoders."""
