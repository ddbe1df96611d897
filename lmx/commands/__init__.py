"""Commands: each file exports arguments(parser) and run(arguments, overrides) -> exit code; wiring only."""
