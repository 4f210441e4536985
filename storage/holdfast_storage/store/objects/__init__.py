"""Object stores: one store for all of them, and a client for each kind."""
