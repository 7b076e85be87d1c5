"""Storage and disks that refuse in other processes: importing this there is enough, which unpickling its rule does."""

from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from raysim.core.interfaces import Rule
from raysim.runtime import checkpoint

save_file = checkpoint.save_file


class Refusing(LocalFileSystem):
    """A disk behind a URL that takes no file whose path has the text in it that a file ``refuse`` beside it holds."""

    protocol = "refusing"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("refusing://"))

    def _ask(self, path):
        for above in Path(path).parents:
            if (above / "refuse").exists() and (above / "refuse").read_text() in path:
                raise PermissionError("the key was revoked")

    def put_file(self, lpath, rpath, **kwargs):
        self._ask(rpath)
        super().put_file(lpath, rpath, **kwargs)

    def pipe_file(self, path, value, **kwargs):
        self._ask(path)
        super().pipe_file(path, value, **kwargs)


fsspec.register_implementation("refusing", Refusing, clobber=True)


@dataclass(frozen=True)
class Averaging(Rule):
    """Averaging; where a file ``full`` is, clients' disks have no room any more from round 2 on."""

    full: str = ""

    def round(self, clients, server):
        return server.at(server.x_P + clients.mean(update, server.x_P, self.full))


def update(cohort, x_P, full):
    there = bool(full) and cohort.round >= 2 and Path(full).exists()
    checkpoint.save_file = no_room if there else save_file
    return cohort.train(x_P).sub_(x_P)


def no_room(tensors, file):
    raise OSError(28, "No space left on device", str(file))
