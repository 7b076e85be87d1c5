"""Experiments that differ in numbers alone, trained as one stack of rows in this process."""

from tuning.population.many import grouped, run_all
from tuning.population.population import Population, differences, stackable
from tuning.population.values import NotStackable

__all__ = ["NotStackable", "Population", "differences", "grouped", "run_all", "stackable"]
