"""Where images come from: handwritten digits, folders, parquet shards, and the decoding of files."""
