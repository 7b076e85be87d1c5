"""A storage in memory that refuses what a test wants it to refuse, as buckets across a network do."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Moody(MemoryFileSystem):
    """``refuse(what, path)`` returns an error to raise, or None; ``seen`` has what was asked."""

    protocol = "moody"
    store = {}  # noqa: RUF012 (shared by all instances, as in the class above)
    pseudo_dirs = [""]  # noqa: RUF012
    refuse = staticmethod(lambda what, path: None)
    seen = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("moody://"))

    def _ask(self, what, path):
        Moody.seen.append((what, path))
        error = Moody.refuse(what, path)
        if error is not None:
            raise error

    def put_file(self, lpath, rpath, **kwargs):
        self._ask("write", rpath)
        super().put_file(lpath, rpath, **kwargs)

    def pipe_file(self, path, value, **kwargs):
        self._ask("write", path)
        super().pipe_file(path, value, **kwargs)

    def cat_file(self, path, **kwargs):
        self._ask("read", path)
        return super().cat_file(path, **kwargs)

    def get_file(self, rpath, lpath, **kwargs):
        self._ask("read", rpath)
        super().get_file(rpath, lpath, **kwargs)

    def rm_file(self, path):
        self._ask("delete", path)
        super().rm_file(path)

    def rm(self, path, **kwargs):
        self._ask("delete", path)
        super().rm(path, **kwargs)


fsspec.register_implementation("moody", Moody)


def forget():
    """An empty storage that takes everything."""
    Moody.store.clear()
    Moody.pseudo_dirs[:] = [""]
    Moody.seen.clear()
    Moody.refuse = staticmethod(lambda what, path: None)


def names(under=""):
    """Files there, without the folder's name."""
    return sorted(n.removeprefix(f"/{under}/") for n in Moody.store if n.startswith(f"/{under}"))


def refuse(error, what="write", path="", after=0):
    """From the ``after``-th time on, refuse what ends so."""
    times = []

    def decide(asked, there):
        if asked != what or path not in there:
            return None
        times.append(there)
        return error if len(times) > after else None

    Moody.refuse = staticmethod(decide)
    return times
