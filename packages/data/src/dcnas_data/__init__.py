"""Two-digit scenes, noise, and batches that wait for nothing."""
