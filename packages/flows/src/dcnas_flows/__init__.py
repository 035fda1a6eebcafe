"""The Prefect flows over the DVC graph."""
