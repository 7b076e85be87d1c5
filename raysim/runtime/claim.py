"""Whose a run's folder is: that of the process which began or resumed the run last.

Two processes that write to one folder would mix what they write, and object stores have no locks; a lock would also
outlive a process that is killed. So nobody is kept out: whoever begins or resumes a run writes ``owner.json`` with a
token of its own, and looks before each checkpoint whether that is still there. A process that finds another's token
stops, says whose it is, and writes no more.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from raysim.runtime import checkpoint
from raysim.runtime.storage import Storage

FILE = "owner.json"


class Superseded(checkpoint.CheckpointError):
    """Another process has taken the run's folder over: which, and when."""


class Claim:
    """This process's claim on a folder.

    Args:
        place: the folder as the user knows it.
        storage: where it is, if that is behind a URL.
    """

    def __init__(self, place: Path | str, storage: Storage | None = None) -> None:
        self.place, self.storage = place, storage
        self.token = secrets.token_hex(8)
        self.lost = False
        self._looked = -math.inf

    def take(self) -> None:
        """Make the folder this process's.

        Raises:
            OSError: the disk or the storage refuses.
        """
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        facts = {"token": self.token, "since": now, "host": os.uname().nodename, "pid": os.getpid()}
        text = json.dumps(facts, indent=1)
        if self.storage:
            self.storage.write(FILE, text)
        else:
            checkpoint.write(Path(self.place) / FILE, text)
        self._looked = time.monotonic()

    def require(self, age: float = 0.0) -> None:
        """See that the folder is still this process's.

        Args:
            age: seconds for which it is taken to be so after the last look.

        Raises:
            Superseded: it is another's.
            OSError: the disk or the storage refuses.
        """
        if not self.lost and time.monotonic() - self._looked < age:
            return
        owner = self._owner()
        if owner is None:  # somebody tidied up
            self.take()
        elif owner.get("token") != self.token:
            self.lost = True
            raise Superseded(self._taken(owner))
        self._looked = time.monotonic()

    def _owner(self) -> dict[str, Any] | None:
        """What the folder says; nothing that can be read is somebody else's, who is about to write it."""
        if self.storage:
            text = self.storage.read(FILE)
        else:
            try:
                text = (Path(self.place) / FILE).read_text()
            except (FileNotFoundError, NotADirectoryError):
                text = None
        if text is None:
            return None
        try:
            owner = json.loads(text)
        except json.JSONDecodeError:
            return {}
        return owner if isinstance(owner, dict) else {}

    def _taken(self, owner: dict[str, Any]) -> str:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', 'another machine')}"
        when = owner.get("since", "a time it does not say")
        return (
            f"The run in {self.place} was taken over by {who} at {when}: it was begun or resumed there while this "
            "process was at it. This process stops and leaves the folder alone, so that the two do not mix. If that "
            f"one is not to go on, stop it, then: raysim resume {self.place}"
        )
