"""Fine-tuning of Wan (2.1, 2.2) by LoRA: its files, its network, its texts, and LoRA in formats that others read."""
