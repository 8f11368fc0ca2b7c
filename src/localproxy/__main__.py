"""`python3 -m localproxy`: nothing but wiring and the exit code.

Exit codes: 0 the service closed the tunnel; 1 refused, lost for good, or unable to serve it; 2 misuse.
A process that is stopped by a signal ends by that signal once everything is closed.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

from .command_line import ACCESS_TOKEN, parse
from .destinations import UsageError
from .log import Log
from .loop import Loop
from .proxy import FAILURE, Proxy


def main() -> int:
    try:
        settings = parse(sys.argv[1:], os.environ)
    except UsageError as misuse:
        sys.stderr.write(f"localproxy: {misuse} (try --help)\n")
        return 2
    if isinstance(settings, str):
        sys.stdout.write(settings + "\n")
        return 0
    log = Log(settings.verbosity)
    log.hide(settings.access_token)
    log.hide(settings.client_token or "")
    if settings.web_proxy:
        log.hide(settings.web_proxy.credentials or "")
    if settings.token_is_visible:
        log.warning(
            f"A token is on the command line, where every user can read it: better set {ACCESS_TOKEN}"
        )
    stopped_by: list[int] = []
    try:
        loop = Loop()
        proxy = Proxy(loop, log, settings)

        def stop(number: int) -> None:
            stopped_by.append(number)
            proxy.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.on_signal(number, partial(stop, number))
        code = loop.run(proxy.run())
    except OSError as error:
        log.fatal(f"Cannot go on: {error}")
        return FAILURE
    except Exception as error:
        # A mistake of this program. One line, which whoever reads it can report; no traceback in a log.
        log.fatal(f"Internal error: {type(error).__name__}: {error} ({_place(error)})")
        return FAILURE
    if stopped_by:
        # Whoever waits for this process learns the truth about its end.
        signal.signal(stopped_by[0], signal.SIG_DFL)
        os.kill(os.getpid(), stopped_by[0])
    return code


def _place(error: BaseException) -> str:
    """File and line in which it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"


if __name__ == "__main__":
    sys.exit(main())
