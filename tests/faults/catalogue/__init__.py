"""The faults, a module for each thing that can go wrong. Importing this package fills the list of them."""

from tests.faults.catalogue import broker, clocks, database, frozen, network, poison, processes, rolling, rubbish

__all__ = ["broker", "clocks", "database", "frozen", "network", "poison", "processes", "rolling", "rubbish"]
