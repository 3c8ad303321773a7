"""`smartproxy run`."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

import click
from rich.markup import escape

from smartproxy.cli.console import CANNOT_START, err, exit_invalid, load_or_exit, show_problem
from smartproxy.config import ConfigError, load_config
from smartproxy.config.models import LoggingConfig
from smartproxy.logs import JsonFormatter, TextFormatter
from smartproxy.proxy import SmartProxy

_log = logging.getLogger("smartproxy.cli")


@click.command()
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--check", is_flag=True, help="Only check CONFIG, as `validate` does.")
def run(config: str, check: bool) -> None:
    """Run a proxy on CONFIG until it is told to stop.

    SIGHUP loads CONFIG again: a mistake in it is reported and changes nothing. SIGTERM and Ctrl-C
    let what is under way finish; a second one ends it at once.
    """
    loaded = load_or_exit(config)
    if check:
        from smartproxy.cli.validate import validate

        click.get_current_context().invoke(validate, config=config)
        return
    set_up_logging(loaded.config.logging)
    try:
        proxy = SmartProxy(config=loaded.config)
    except ConfigError as error:
        exit_invalid(config, error)
    _calm_garbage_collector()
    try:
        asyncio.run(_serve(proxy, config))
    except OSError as error:
        err.print(f"[red]error[/] cannot start: {escape(str(error))}")
        sys.exit(CANNOT_START)
    except KeyboardInterrupt:
        sys.exit(130)


def _calm_garbage_collector() -> None:
    """Collect seldom: sessions leave no cycles behind, and looking for them costs a tenth of each request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def set_up_logging(options: LoggingConfig) -> None:
    """Send the `smartproxy` loggers to standard error in the form the configuration asks for."""
    handler = logging.StreamHandler(sys.stderr)
    if options.format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(colour=sys.stderr.isatty()))
    logger = logging.getLogger("smartproxy")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(options.level.upper())
    logger.propagate = False
    logging.getLogger("smartproxy.access").disabled = not options.access_log


async def _serve(proxy: SmartProxy, path: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    stop_now = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def on_stop_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    def on_reload_signal() -> None:
        task = loop.create_task(_reload(proxy, path))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, on_stop_signal)
    loop.add_signal_handler(signal.SIGHUP, on_reload_signal)
    await proxy.start()
    await stop.wait()
    connections = proxy.engine.connection_count
    _log.info("stopping, %d connections to finish", connections, extra={"event": "stopping", "fields": {}})
    stopping = loop.create_task(proxy.stop())
    hurry = loop.create_task(stop_now.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stopping.done():
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
    else:
        stopping.result()


async def _reload(proxy: SmartProxy, path: str) -> None:
    try:
        loaded = load_config(path)
        await proxy.update_config(loaded.config)
    except ConfigError as error:
        for problem in error.problems:
            show_problem(problem)
        _log.error(
            "%s was not loaded: %d mistakes; the old routes stay",
            path,
            len(error.problems),
            extra={"event": "reload_failed", "fields": {"problems": [str(p) for p in error.problems]}},
        )
    except OSError as error:
        _log.error(
            "%s was not loaded: %s; the old routes stay",
            path,
            error,
            extra={"event": "reload_failed", "fields": {"problems": [str(error)]}},
        )
    else:
        set_up_logging(loaded.config.logging)
        _log.info("%s loaded", path, extra={"event": "reloaded", "fields": {"path": path}})
