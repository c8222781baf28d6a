"""The daemon: start-up in an order that touches nothing before it is sure, signals, orderly shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lopower import __version__
from lopower.daemon import logs
from lopower.daemon.control import ControlServer, ControlSocketError
from lopower.daemon.notify import Notifier
from lopower.daemon.operations import Operations
from lopower.daemon.runtime import ProxyRuntime
from lopower.daemon.settings import Settings, SettingsError
from lopower.daemon.state_lock import StateLock, StateLockedError
from lopower.daemon.tailnet import SidecarMissingError, ways_to_a_tailnet
from lopower.devices.errors import ConfigurationUnavailable, RegistryError
from lopower.devices.keys import load_or_create_server_key, public_key_of
from lopower.devices.registry import Registry

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS: Final = 5.0
KEY_FILE: Final = "server.key"
DATABASE_FILE: Final = "devices.db"


class StartError(Exception):
    """The daemon cannot start; the text says why, and what to do."""


def run(settings: Settings, load_settings: Callable[[], Settings]) -> int:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: checked.
        load_settings: reads them again, for SIGHUP and `reload`.

    Returns:
        The exit code: 0 after an orderly shutdown, 1 if the daemon could not start.
    """
    notifier = Notifier(os.environ)
    under_manager = "JOURNAL_STREAM" in os.environ or "INVOCATION_ID" in os.environ
    try:
        return asyncio.run(Daemon(settings, load_settings, notifier, under_manager).run())
    except (
        StartError,
        StateLockedError,
        ControlSocketError,
        RegistryError,
        SettingsError,
        SidecarMissingError,
    ) as error:
        print(f"lopower: {error}", file=sys.stderr)
        return 1


class Daemon:
    """One run of the daemon; `under_manager`: a service manager keeps it, and adds the time to the log."""

    def __init__(
        self, settings: Settings, load_settings: Callable[[], Settings], notifier: Notifier, under_manager: bool
    ) -> None:
        self._settings = settings
        self._load_settings = load_settings
        self._notifier = notifier
        self._under_manager = under_manager
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Start, wait for the end, end."""
        settings = self._settings
        self._configure_log(settings)
        async with contextlib.AsyncExitStack() as cleanup:
            self._prepare(settings.state_dir, "--state-dir")
            self._prepare(settings.socket.parent, "--socket")
            lock = StateLock(settings.state_dir)
            cleanup.callback(lock.release)
            private_key = load_or_create_server_key(settings.state_dir / KEY_FILE)
            public_key = public_key_of(private_key)
            registry = Registry.open(settings.state_dir / DATABASE_FILE, server_public_key=public_key)
            cleanup.callback(registry.close)
            registry.set_ranges(settings.ipv4_range, settings.ipv6)
            loop = asyncio.get_running_loop()
            runtime = ProxyRuntime(
                settings, registry, private_key, loop, on_reload=self._configure_log, on_login=_show_login
            )
            self._open_socket(runtime)
            cleanup.callback(runtime.path.stop)
            _raise_descriptor_limit()
            _work_in_batches()
            runtime.start()
            cleanup.push_async_callback(runtime.close, SHUTDOWN_SECONDS)
            self._operations = Operations(
                registry=registry,
                runtime=runtime,
                settings=settings,
                server_public_key=public_key,
                load_settings=self._load_settings,
                host_snapshot=lambda: runtime.network.snapshot,
            )
            control = ControlServer(
                self._operations, path=settings.socket, mode=settings.socket_mode, group=settings.control_group
            )
            await control.start()
            cleanup.push_async_callback(control.close)
            self._handle_signals()
            # What has been imported and built by now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            self._announce(runtime, len(registry.devices()))
            watchdog = asyncio.create_task(self._watch())
            await self._stop.wait()
            watchdog.cancel()
            self._notifier.stopping()
            log.info("stopping: open flows get %g s to end by themselves", SHUTDOWN_SECONDS)
        return 0

    def _prepare(self, directory: Path, flag: str) -> None:
        """A directory of ours: there, and writable."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(
                f"the directory {directory} cannot be made: {error.strerror}; choose another with {flag}"
            ) from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise StartError(f"{directory} is not writable; choose another directory with {flag}, or run as its owner")

    def _open_socket(self, runtime: ProxyRuntime) -> None:
        listen = self._settings.listen
        try:
            runtime.open_socket()
        except OSError as error:
            where = f"UDP port {listen.port}" + (f" of {listen.host}" if listen.host else "")
            if error.errno == errno.EADDRINUSE:
                raise StartError(
                    f"{where} is in use by another program (`ss -ulpn sport = :{listen.port}` shows which); "
                    "stop that, or choose another port with --listen"
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise StartError(f"{listen.host} is not an address of this host; see --listen") from None
            raise StartError(f"{where} cannot be opened: {error.strerror}") from None

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            os._exit(1)  # asked twice: somebody is in a hurry, and everything that must last is on the disk
        self._stop.set()

    def _reload(self) -> None:
        self._notifier.reloading(time.monotonic())
        try:
            self._operations.reload()
        except (SettingsError, RegistryError) as error:
            log.error("the settings stay as they were: %s", error)
        self._notifier.ready("reloaded")

    def _configure_log(self, settings: Settings) -> None:
        logs.configure(settings.log_format, settings.verbose, with_time=not self._under_manager)

    def _announce(self, runtime: ProxyRuntime, devices: int) -> None:
        plural = "" if devices == 1 else "s"
        status = f"{devices} device{plural}, UDP port {runtime.port}"
        if self._under_manager:
            log.info("lopower %s is up: %s", __version__, status)
        else:
            print(f"lopower {__version__} is up: {status}, state in {self._settings.state_dir}", flush=True)
            print("Add a device in another terminal: lopower device add NAME", flush=True)
            print("Ctrl-C ends it; `lopower service install` keeps it running.", flush=True)
        for warning in self._operations.status()["warnings"]:
            log.warning("%s", warning)
        tailnet = runtime.driver.status()
        if tailnet["driver"] == "host" and not tailnet["connected"]:
            if self._under_manager:
                log.info("%s; %s", tailnet["detail"], tailnet["advice"])
            else:
                print(f"\n{ways_to_a_tailnet()}", flush=True)
        self._notifier.ready(status)

    async def _watch(self) -> None:
        interval = self._notifier.watchdog_interval
        if interval is not None:
            while True:
                self._notifier.alive()
                await asyncio.sleep(interval / 2)


def _show_login(url: str) -> None:
    """The log has the URL; a terminal shows its QR code, too, for whoever has a phone at hand."""
    if sys.stdout.isatty():
        from lopower.devices import qr_codes

        with contextlib.suppress(ConfigurationUnavailable):  # what a control server sends may be of any length
            print(f"Log in to the tailnet at {url}\n\n{qr_codes.terminal(url)}", flush=True)


def _work_in_batches() -> None:
    """Let who is at work on this processor finish what it has for us, instead of stopping it for each packet.

    That is Linux's batch policy (sched(7)). On an idle processor it changes nothing. The sidecar inherits it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _raise_descriptor_limit() -> None:
    """A descriptor per flow: take as many as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
