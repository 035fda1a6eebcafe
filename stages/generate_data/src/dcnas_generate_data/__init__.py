"""Pipeline stage generate_data: two-digit scenes and photographs to Parquet."""
