"""Steps that read pages in special ways: from the host, only some of them, or to see how they are looked at."""

from workbench.engine.reading.reader import PageReader, needs_reader
from workbench.engine.reading.torch_ops import TorchOps

__all__ = ["PageReader", "TorchOps", "needs_reader"]
