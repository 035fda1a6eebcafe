"""What every pipeline stage stands on: atomic files, errors with exit codes, locks and signals, progress. No torch."""
