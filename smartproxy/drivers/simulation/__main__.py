"""`python -m smartproxy.drivers.simulation MODULE:function`: sweep a scenario over seeds, or replay one."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence

from smartproxy.drivers.simulation.simulation import Simulation
from smartproxy.drivers.simulation.sweep import SweepFailure, load_scenario, sweep

SHOWN_FAILURES = 10
PROGRESS_SEEDS = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every seed passed, 1 when one failed, 2 when there is no such scenario."""
    parser = argparse.ArgumentParser(prog="python -m smartproxy.drivers.simulation", description=__doc__)
    parser.add_argument("scenario", help="package.module:function or path/to/file.py:function")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to sweep (default 100)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--processes", type=int, default=1, help="how many processes share them (default 1)")
    parser.add_argument("--seed", type=int, help="replay this one seed instead")
    parser.add_argument("--transcript", action="store_true", help="with --seed: print the whole transcript")
    options = parser.parse_args(arguments)
    try:
        load_scenario(options.scenario)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.seed is not None:
        return _replay(options.scenario, options.seed, options.transcript)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return _sweep(options.scenario, seeds, options.processes)


def _replay(name: str, seed: int, shows_transcript: bool) -> int:
    failed = False
    with Simulation(seed, transcript_lines=None) as simulation:
        try:
            simulation.run_until_complete(load_scenario(name)(simulation))
        except Exception:
            failed = True
            traceback.print_exc()
        if shows_transcript:
            print(simulation.transcript.to_text(), end="")
        virtual_s = simulation.now - simulation.clock.start_s
        verdict = "failed" if failed else "passed"
        print(f"seed {seed} {verdict}: {simulation.events_run} events in {virtual_s:.3f} virtual seconds")
    return int(failed)


def _sweep(name: str, seeds: range, processes: int) -> int:
    started_at = time.perf_counter()

    def tell_progress(done: int, failures: list[SweepFailure]) -> None:
        if done % PROGRESS_SEEDS == 0:
            print(f"{done}/{len(seeds)} seeds, {len(failures)} failed", file=sys.stderr)

    failures = sweep(name, seeds, processes=processes, on_progress=tell_progress)
    for failure in failures[:SHOWN_FAILURES]:
        print(f"seed {failure.seed} failed: {failure.message.splitlines()[0]}")
    if len(failures) > SHOWN_FAILURES:
        print(f"and {len(failures) - SHOWN_FAILURES} more")
    elapsed_s = time.perf_counter() - started_at
    print(f"{name}: {len(seeds)} seeds, {len(failures)} failed, {elapsed_s:.1f} s")
    if failures:
        print(
            f"replay: python -m smartproxy.drivers.simulation {name} --seed {failures[0].seed} --transcript"
        )
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
