"""Power failures, simulated: what can be on the disk at any moment, and does that keep the promises?

Every write, truncation and sync is recorded while records are stored: of the file alone by a virtual file
system, and of a whole process with the storage's threads by a preloaded library. For a moment of the
recording the test builds what a disk may hold then: of each file everything up to its last sync, and of what
came after it an arbitrary part, writes torn at sector boundaries included. Then SQLite opens the result.
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import sqlite_drivers

from dsfast.services.storage import WriteOp
from dsfast.services.storage.sqlite_file import RecordFile, connect_writer, prepare_file, transaction

CUTS = int(os.environ.get("DSFAST_POWER_CUTS", "100"))
SECTOR = 512


class Recorder(apsw.VFS):
    """The ordinary file system, with a protocol of what changes the files: ``trace``."""

    def __init__(self, name):
        self.trace = []
        super().__init__(name, "")

    def xOpen(self, name, flags):
        return RecordedFile(self.trace, name, flags)

    def xDelete(self, name, sync_directory):
        super().xDelete(name, sync_directory)
        self.trace.append(("delete", Path(name).name))


class RecordedFile(apsw.VFSFile):
    def __init__(self, trace, name, flags):
        self._trace = trace
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name).name
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self._trace.append(("write", self._name, offset, bytes(data)))

    def xTruncate(self, size):
        super().xTruncate(size)
        self._trace.append(("truncate", self._name, size))

    def xSync(self, flags):
        super().xSync(flags)
        self._trace.append(("sync", self._name))


def on_disk(trace, chance):
    """Possible contents of the files after ``trace``: name -> bytes."""
    contents: dict[str, bytearray] = {}
    unsynced: dict[str, list] = {}
    for event in trace:
        if event[0] == "sync":
            for change in unsynced.pop(event[1], []):
                apply(contents.setdefault(event[1], bytearray()), change)
        elif event[0] == "delete":
            contents.pop(event[1], None)
            unsynced.pop(event[1], None)
        elif event[0] in ("write", "truncate"):
            unsynced.setdefault(event[1], []).append(event)
    for name, changes in unsynced.items():
        keep = chance.choice([0.0, 0.5, 0.9, 1.0])
        survivors = [change for change in changes if chance.random() < keep]
        if chance.random() < 0.5:
            # A disk may write in any order; a shorter file is what the file system made of it last.
            chance.shuffle(survivors)
        for change in survivors:
            apply(contents.setdefault(name, bytearray()), torn(change, chance))
    return contents


def torn(change, chance):
    if change[0] == "write" and chance.random() < 0.2:
        kind, name, offset, data = change
        sectors = chance.randrange(0, len(data) // SECTOR + 1)
        return kind, name, offset, data[: sectors * SECTOR]
    return change


def apply(content, change):
    if change[0] == "truncate":
        del content[change[2] :]
        return
    _, _, offset, data = change
    if data and len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def record(path, durability, steps, chance, promise_every):
    """Store records; what happened to the files.

    The trace also has ("under way", {name: version, -1 for deleted}) before each transaction, and
    ("promised", {name: version}) whenever the storage promises that everything so far survives.
    """
    vfs = f"recorder of {path}"
    recorder = Recorder(vfs)
    prepare_file(path)
    file = RecordFile(connect_writer(path, durability, vfs=vfs))
    written: dict[str, int] = {}
    for version in range(1, steps + 1):
        ops = []
        for number in chance.sample(range(40), chance.randrange(1, 12)):
            name = f"r{number}"
            if chance.random() < 0.1:
                ops.append(WriteOp(name, -1, None))
            else:
                text = b'{"v":%d,"x":"%b"}' % (
                    version,
                    chance.randbytes(chance.choice([20, 20, 6000])).hex().encode(),
                )
                ops.append(WriteOp(name, version, text))
        changes = {op.name: op.version for op in ops}
        recorder.trace.append(("under way", changes))
        with transaction(file):
            assert file.apply(ops) == [None] * len(ops)
        written.update(changes)
        if durability == "NORMAL" and version % 10 == 0:
            file.connection.execute("PRAGMA synchronous=FULL")
            with transaction(file):
                file.set_meta("last_sync_ms", str(version))
            file.connection.execute("PRAGMA synchronous=NORMAL")
        if version % promise_every == 0:
            recorder.trace.append(("promised", dict(written)))
        if version % 25 == 0:
            assert file.connection.checkpoint(truncate=version % 50 == 0)
    trace = list(recorder.trace)
    file.connection.close()
    recorder.unregister()
    return trace


def versions_in(path):
    """Versions by name in a file that has to be intact; none if even its tables are lost."""
    with closing(apsw.Connection(str(path))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        empty = connection.execute("SELECT 1 FROM sqlite_schema").fetchall() == []
        return {} if empty else dict(connection.execute("SELECT name, version FROM records"))


def losses(directory, durability, promise_every):
    """Broken promises, one text each, over all simulated failures."""
    chance = random.Random(f"{durability} {promise_every} {CUTS}")
    trace = record(directory / "dsfast.db", durability, 120, chance, promise_every)
    ready = next(index for index, event in enumerate(trace) if event[0] == "promised")
    found = []
    for cut_number in range(CUTS // 2):
        cut = chance.randrange(ready + 1, len(trace) + 1)
        allowed = {}
        for event in trace[:cut]:
            if event[0] == "promised":
                allowed = {name: {version} for name, version in event[1].items()}
            elif event[0] == "under way":
                for name, version in event[1].items():
                    allowed.setdefault(name, {-1}).add(version)
        image = directory / f"cut{cut_number}"
        image.mkdir()
        for name, content in on_disk(trace[:cut], chance).items():
            (image / name).write_bytes(content)
        stored = versions_in(image / "dsfast.db")
        for name, versions in allowed.items():
            if stored.get(name, -1) not in versions:
                found.append(f"cut {cut}: {name} is {stored.get(name, -1)}, not one of {versions}")
    return found


@pytest.mark.parametrize(("durability", "promise_every"), [("FULL", 1), ("NORMAL", 10)])
def test_no_power_failure_loses_what_was_promised(tmp_path, durability, promise_every):
    assert losses(tmp_path, durability, promise_every) == []


def test_the_simulation_would_notice_a_lost_promise(tmp_path):
    """Promises after each commit are more than NORMAL can keep."""
    assert losses(tmp_path, "NORMAL", 1) != []


# ---- the whole storage, in a process of its own

TESTS = Path(__file__).parent
ACKNOWLEDGED = 3000
KINDS = {b"W": "write", b"T": "truncate", b"B": "sync begins", b"S": "sync", b"D": "delete"}
FREQUENT = {"checkpoint_bytes": 1 << 18, "truncate_bytes": 1 << 20, "sync_interval": 20}
"""Checkpoints and syncs come often, so that many cuts fall into them."""


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The library that records."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = TESTS / "power_loss_shim.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return library


def run_recorded(directory, durability, driver, shim):
    """Let a process store records until enough are acknowledged; what happened to its files.

    Acknowledgements are ("acknowledged", {name: version}) in the trace.
    """
    data, trace = directory / "data", directory / "trace"
    data.mkdir()
    environment = {
        **sqlite_drivers.environment(driver),
        "LD_PRELOAD": str(shim),
        "RECORDED_DIRECTORY": str(data),
        "RECORDED_TRACE": str(trace),
    }
    settings = json.dumps({**FREQUENT, "acks": str(data / "acks"), "stop_after": ACKNOWLEDGED})
    child = [sys.executable, TESTS / "storage_child.py", data / "dsfast.db", durability, settings]
    subprocess.run(child, env=environment, check=True, timeout=120)
    return list(read_trace(trace.read_bytes()))


def read_trace(recorded):
    head = struct.Struct("=cBIQ")
    position = 0
    while position < len(recorded):
        kind, name_length, length, at = head.unpack_from(recorded, position)
        start = position + head.size + name_length
        name = recorded[position + head.size : start].decode()
        data = recorded[start : start + length]
        position = start + length
        if name == "acks":
            key, version = data.decode().split()
            yield "acknowledged", {key: int(version)}
        elif name in ("dsfast.db", "dsfast.db-wal"):
            details = {b"W": (at, data), b"T": (at,)}.get(kind, ())
            yield KINDS[kind], name, *details


def kept(trace, promise):
    """The versions that have to be there after the trace: all that were acknowledged (``at once``), or those
    acknowledged before the last ``sync`` of the log began."""
    sure, waiting, under_sync = {}, {}, {}
    for event in trace:
        if event[0] == "acknowledged":
            versions = sure if promise == "at once" else waiting
            for name, version in event[1].items():
                versions[name] = max(version, versions.get(name, -1))
        elif event == ("sync begins", "dsfast.db-wal"):
            under_sync = dict(waiting)
        elif event == ("sync", "dsfast.db-wal"):
            sure.update(under_sync)
    return sure


def process_losses(directory, trace, promise):
    """Broken promises over all simulated failures of a recorded process."""
    chance = random.Random(f"{promise} {CUTS}")
    ready = next(index for index, event in enumerate(trace) if event[0] == "acknowledged")
    found = []
    for cut_number in range(CUTS // 4):
        cut = chance.randrange(ready + 1, len(trace) + 1)
        image = directory / f"cut{cut_number}"
        image.mkdir()
        for name, content in on_disk(trace[:cut], chance).items():
            (image / name).write_bytes(content)
        stored = versions_in(image / "dsfast.db")
        shutil.rmtree(image)
        for name, version in kept(trace[:cut], promise).items():
            if stored.get(name, -1) < version:
                found.append(f"cut {cut}: {name} is {stored.get(name, -1)}, not {version}")
    return found


@pytest.mark.parametrize("driver", sqlite_drivers.DRIVERS)
def test_full_keeps_every_acknowledged_write_of_the_whole_storage(tmp_path, shim, driver):
    trace = run_recorded(tmp_path, "full", driver, shim)
    assert sum(event == ("sync", "dsfast.db") for event in trace) > 2, "there were no checkpoints"
    assert process_losses(tmp_path, trace, "at once") == []


@pytest.mark.parametrize("driver", sqlite_drivers.DRIVERS)
def test_normal_keeps_what_was_acknowledged_before_the_last_sync(tmp_path, shim, driver):
    trace = run_recorded(tmp_path, "normal", driver, shim)
    assert len(kept(trace, "sync")) > 100
    assert process_losses(tmp_path, trace, "sync") == []
    assert process_losses(tmp_path, trace, "at once") != [], "the simulation would not notice a lost promise"
