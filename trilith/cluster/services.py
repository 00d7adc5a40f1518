"""Imports every module of every service, so that all that is declared is known. There is no list to keep."""

import importlib
import pkgutil

from trilith.cluster.schema import migrate  # noqa: F401 - its tables
from trilith.kernel import leases, quota  # noqa: F401 - their tables

SERVICES = ("compute", "identity", "image", "network", "placement", "volume")

for _service in SERVICES:
    _package = importlib.import_module(f"trilith.{_service}")
    for _module in pkgutil.iter_modules(_package.__path__):
        importlib.import_module(f"trilith.{_service}.{_module.name}")
