"""The component: AWS IoT secure tunneling notifications in, destination-mode localproxy processes out.

The way of a notification: ``nucleus`` receives it and posts an event; ``agent``, on the main thread, parses
it with ``notification``, decides, asks ``launch`` for the command and starts a ``tunnel``, whose output goes
through ``logs`` to the component log.
"""
