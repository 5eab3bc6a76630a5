"""The command line: one verb per step of the flow, one file per group of verbs."""
