"""Device card and synchronised timers."""
