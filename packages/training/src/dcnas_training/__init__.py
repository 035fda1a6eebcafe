"""Losses, metrics, precision, seeds, checkpoints."""
