"""What the benchmarks share: fair turns, scenes from the real stage, the report."""
