"""The component's entrypoint, started by the recipe in the component's work folder."""

import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path

# Compiled code and a copied localproxy in the work folder are nobody else's to read or change.
os.umask(0o077)
# The artifact is read-only: without this the program would be compiled anew at every start, and so would the
# SDK where it came with the system.
sys.pycache_prefix = str(Path.cwd() / "pycache")

from tunnel_agent.agent import Agent  # noqa: E402
from tunnel_agent.events import ChildEnded, StopRequested  # noqa: E402
from tunnel_agent.logs import ComponentLog, Secrets  # noqa: E402
from tunnel_agent.nucleus import Nucleus  # noqa: E402

_SOCKET = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
_TOKEN = "SVCUID"  # noqa: S105 - the variable's name
_THING = "AWS_IOT_THING_NAME"


def main() -> int:
    """Run the component; returns its exit code."""
    # What was imported stays for good. Looking through it for garbage would hold up a tunnel by ten
    # milliseconds now and then.
    gc.freeze()
    # While one localproxy floods the log its pump always runs, and every step of a notification, from thread
    # to thread, would wait this long for the interpreter (seconds, instead of 5 ms).
    sys.setswitchinterval(0.0005)
    secrets = Secrets()
    log = ComponentLog(secrets)
    log.install()
    try:
        missing = [name for name in (_SOCKET, _TOKEN, _THING) if not os.environ.get(name)]
        if missing:
            logging.error("%s is not set: this program is to be started by a Greengrass nucleus", missing[0])
            return 1
        secrets.add(os.environ[_TOKEN], os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", ""))
        agent = Agent(log, Path(__file__).resolve().parents[1], Path.cwd(), dict(os.environ))
        _post_signals(agent)
        nucleus = Nucleus(os.environ[_SOCKET], os.environ[_TOKEN], os.environ[_THING], agent.post)
        return agent.run(nucleus)
    finally:
        log.drain(0.5)


def _post_signals(agent: Agent) -> None:
    """Make signals events.

    A handler in Python runs when the main thread next runs; a signal that comes just before it begins to wait
    would wait with it (seen once in 2,000 to 40,000 signals). The wake-up descriptor is written to at once.
    """
    arrived, wake_up = os.pipe()
    os.set_blocking(wake_up, False)
    signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)

    def post() -> None:
        while True:
            for number in os.read(arrived, 512):
                child = number == signal.SIGCHLD
                agent.post(ChildEnded() if child else StopRequested(signal.Signals(number).name))

    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=post, name="signals", daemon=True).start()


if __name__ == "__main__":
    # Not sys.exit: that would wait for threads of the SDK, which may hang.
    code = main()
    os._exit(code)
