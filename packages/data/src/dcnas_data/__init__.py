"""Two-digit scenes, photographs, noise, and batches that wait for nothing."""
