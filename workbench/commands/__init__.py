"""The subcommands of `workbench`, one module each: ``add_arguments(parser)`` and ``main(args) -> exit code``."""
