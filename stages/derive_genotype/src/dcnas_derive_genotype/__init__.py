"""Pipeline stage derive_genotype: the discrete result of one search, with its predicted and measured latency."""
