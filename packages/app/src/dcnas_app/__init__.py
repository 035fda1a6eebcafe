"""The dcnas command."""
