"""A run of a pilot: the loop, its slots, attempts, stop conditions, heartbeat and leases, and the fleet of pilots."""
