"""A finished run of `act` at work: in an environment, over HTTP."""
