"""Pipeline stage retrain: train one model with one seed."""
