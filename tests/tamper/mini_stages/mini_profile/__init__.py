"""Stands in for profile_latency: writes a table of one made-up latency."""
