"""Images: digits, folders and ImageNet with SiT."""
