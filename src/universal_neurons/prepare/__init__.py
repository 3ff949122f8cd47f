"""From text to token ids and trained models."""
