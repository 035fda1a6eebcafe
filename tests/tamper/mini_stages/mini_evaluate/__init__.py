"""Stands in for evaluate, in milliseconds: a made-up record and panel."""
