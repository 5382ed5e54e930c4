"""The face: verbs on the command line. It holds no logic."""
