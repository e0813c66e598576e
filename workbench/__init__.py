"""KV Workbench: watch a language model's memory work."""
