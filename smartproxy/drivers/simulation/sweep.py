"""One scenario over many seeds, and the seeds that broke it."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from smartproxy.drivers.simulation.simulation import TRANSCRIPT_LINES, Simulation

Scenario = Callable[[Simulation], Coroutine[Any, Any, object]]
"""`async def scenario(sim)`: sets the weather, starts programs and scripts, and asserts."""

SEEDS_PER_BATCH = 25
BATCHES_AHEAD = 4
MOST_SECONDS_PER_SEED = 30.0


@dataclass(frozen=True, slots=True)
class SweepFailure:
    """A seed that broke the scenario, and how."""

    seed: int
    message: str


def run_scenario(
    scenario: Scenario, seed: int, *, transcript_lines: int | None = TRANSCRIPT_LINES
) -> Simulation:
    """Run a scenario once, to its end. Raises what went wrong, with the seed in its message.

    The simulation that is returned is over; its transcript and records can be read.
    """
    with Simulation(seed, transcript_lines=transcript_lines) as simulation:
        simulation.run_until_complete(scenario(simulation))
    return simulation


def sweep(
    scenario: Scenario | str,
    seeds: Iterable[int],
    *,
    processes: int = 1,
    on_progress: Callable[[int, list[SweepFailure]], None] | None = None,
) -> list[SweepFailure]:
    """Run a scenario with every seed; the failures, in the order of the seeds.

    `scenario` is a function or its name, `package.module:function` or
    `path/to/file.py:function`; with more than one process it must be a name or a
    function at the top of a module. `on_progress(seeds done, failures)` is called now and then.
    """
    failures: list[SweepFailure] = []
    done = 0
    remaining = iter(seeds)
    batches = iter(lambda: list(islice(remaining, SEEDS_PER_BATCH)), [])
    for size, found in _results(scenario, batches, processes):
        done += size
        failures += found
        if on_progress is not None:
            on_progress(done, failures)
    return sorted(failures, key=lambda failure: failure.seed)


def _results(
    scenario: Scenario | str, batches: Iterator[list[int]], processes: int
) -> Iterator[tuple[int, list[SweepFailure]]]:
    if processes <= 1:
        for batch in batches:
            yield _run_batch(scenario, batch)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        pending = [
            pool.submit(_run_batch, scenario, batch) for batch in islice(batches, processes * BATCHES_AHEAD)
        ]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(_run_batch, scenario, batch) for batch in islice(batches, 1)]


def _run_batch(scenario: Scenario | str, seeds: list[int]) -> tuple[int, list[SweepFailure]]:
    function = load_scenario(scenario) if isinstance(scenario, str) else scenario
    failures: list[SweepFailure] = []
    for seed in seeds:
        try:
            with _alarm_after(MOST_SECONDS_PER_SEED):
                run_scenario(function, seed)
        except Exception as error:
            failures.append(SweepFailure(seed, str(error)))
    return len(seeds), failures


class StillRunning(Exception):
    """A seed took too long, in real time: something goes round in circles within one event."""


@contextmanager
def _alarm_after(seconds: float) -> Iterator[None]:
    """Raise StillRunning in the code that runs then, where the system lets us."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else "nowhere"
        raise StillRunning(f"still running after {seconds:.0f} s, at {place}")

    handler_before = signal.signal(signal.SIGALRM, ring)
    timer_before = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer_before)
        signal.signal(signal.SIGALRM, handler_before)


def load_scenario(name: str) -> Scenario:
    """The function `package.module:function` or `path/to/file.py:function` names.

    Raises ValueError when there is no such thing.
    """
    place, separator, function_name = name.rpartition(":")
    if not separator or not place or not function_name:
        raise ValueError(f"a scenario is named module:function or file.py:function, not {name!r}")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, OSError) as error:
        raise ValueError(f"cannot load {place}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{place} has no function {function_name!r}")
    scenario: Scenario = function
    return scenario


def _load_file(path: Path) -> Any:
    path = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    # As pytest and `python file.py` do, so that the scenario finds the modules beside it.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
