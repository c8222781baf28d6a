"""What goes wrong in flashing, as the command line tells it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import wraps

from lopower.cli.errors import FAILED, USAGE, CommandError
from lopower_provisioning.errors import ProvisioningError, SettingsError


def told(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command whose ProvisioningErrors end as its message, hint and exit code."""

    @wraps(run)
    def wrapped(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except ModuleNotFoundError as error:
            hint = "install what flashing needs: pip install 'lopower[flash]'"
            raise CommandError(f"{error.name} is not installed", hint, FAILED) from None
        except SettingsError as error:
            raise CommandError(str(error), error.hint, USAGE) from None
        except ProvisioningError as error:
            raise CommandError(str(error), error.hint, FAILED) from None

    return wrapped
