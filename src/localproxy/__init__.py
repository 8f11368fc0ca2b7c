"""The built-in localproxy: the destination side of AWS IoT secure tunneling, `python3 -m localproxy`.

A program of its own, a stand-in for the C++ localproxy in destination mode. It knows nothing of who
starts it. The rooms, from the wire inwards:

    command_line, destinations, web_proxy  arguments and environment (pure)
    log                                    lines on stderr
    loop, dial, kernel                     one thread's event loop; connecting; a socket and the kernel
    tls, channel                           TLS layers over a socket
    upgrade, frames                        the WebSocket client: handshake and frames (pure)
    protobuf, message                      tunnel messages to bytes and back (pure)
    actions, streams                       what a destination does with them (pure)
    local, local_side                      a local connection, and all of them
    session, proxy                         a tunnel connection, and the life around it

Twenty of these may run on a small device, so what is imported is chosen by what it weighs: asyncio,
dataclasses, typing, logging, argparse and the top level of `websockets` are left out because they
would double the private memory of an idle tunnel. The benchmark prints the figures.
"""

from __future__ import annotations

VERSION = "2.0.0 (built-in)"
