"""Pipeline stage profile_latency: measure the latency profile of a device, for the search to look up."""
