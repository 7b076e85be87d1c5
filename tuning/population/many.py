"""Many experiments, run in this process: those that differ in numbers alone as one stack, the others one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from raysim.simulation import Simulation
from tuning.population.population import Population, differences, part_of, stackable
from tuning.population.values import NotStackable

Tell = Callable[[str], object]


def run_all(
    simulations: Sequence[Simulation],
    tell: Tell | None = None,
    watch: Callable[[float], object] | None = None,
) -> list[pd.DataFrame]:
    """The metrics of every experiment, in their order; a run that diverged ends with a loss that is not a number.

    Experiments that differ in numbers alone (step size, momentum, weight decay, the rule's own) train as one stack:
    see ``Population``. Several seeds are several stacks. Metrics are those of separate runs, up to rounding.

    Args:
        simulations: the experiments.
        tell: called with a line about which of them train together, and why others do not.
        watch: called with the share of the work that is done, from 0 to 1.
    """
    tell = tell or (lambda line: None)
    found: dict[int, pd.DataFrame] = {}
    for group, reason in grouped(simulations):
        part = part_of(watch, len(found), len(group), len(simulations))
        found |= zip(group, _run([simulations[i] for i in group], reason, tell, part), strict=True)
    return [found[i] for i in range(len(simulations))]


def grouped(simulations: Sequence[Simulation]) -> list[tuple[list[int], str | None]]:
    """Positions of the experiments that may train as one stack; of one alone, why it does not with those before."""
    groups: list[list[int]] = []
    reasons: list[str | None] = []
    for i, simulation in enumerate(simulations):
        reason = None
        for group in reversed(groups):
            why = stackable([simulations[group[0]], simulation])
            if why is None:
                group.append(i)
                break
            reason = reason or why
        else:
            groups.append([i])
            reasons.append(reason)
    return list(zip(groups, reasons, strict=True))


def _run(
    simulations: list[Simulation], reason: str | None, tell: Tell, watch: Callable[[float], object]
) -> list[pd.DataFrame]:
    number = len(simulations)
    if number > 1:
        try:
            results = Population(simulations).run(watch)
        except NotStackable as error:
            reason = str(error)
        except Exception as error:  # of one of them; by itself it shows, and spares the others
            reason = f"their stack failed ({type(error).__name__}: {error})"
        else:
            paths = ", ".join(differences(simulations)) or "nothing"
            tell(f"{number} experiments trained as one stack: they differ in {paths} alone.")
            return [result.metrics for result in results]
    if reason:
        alone = f"{number} experiments run one by one" if number > 1 else "1 experiment runs by itself"
        tell(f"{alone}: {reason}.")
    tables = []
    for simulation in simulations:
        tables.append(simulation.run(None).metrics)
        watch(len(tables) / number)
    return tables
