"""Pipeline stage generate_data: two-digit scenes to Parquet."""
