"""Pipeline stage search_supernet: search the space for one target latency with one seed."""
