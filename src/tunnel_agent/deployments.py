"""How long live tunnels hold back a deployment. Pure."""

from __future__ import annotations

_STEP_SECONDS = 30.0


class Deferral:
    """Puts each deployment off in steps until its time is used up."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def step(self, deployment: str, busy: bool, limit: float, now: float) -> float:
        """For how many seconds the deployment is to be put off; 0 lets it go on.

        Args:
            busy: whether a tunnel is live.
            limit: for how long one deployment may be put off in all, in seconds.
            now: monotonic seconds.
        """
        if not busy:
            return 0.0
        since = self._since.setdefault(deployment, now)
        return max(0.0, min(_STEP_SECONDS, since + limit - now))

    def over(self) -> None:
        """A deployment was carried out: nothing is put off any more."""
        self._since.clear()
