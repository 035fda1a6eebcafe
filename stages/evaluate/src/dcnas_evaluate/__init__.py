"""Pipeline stage evaluate: score one trained model, one record file."""
