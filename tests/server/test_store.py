"""What a server keeps, and what a killed one leaves."""

from __future__ import annotations

import sqlite3

import pytest

from videoxl.cli.serve import listening
from videoxl.server.store import MAX_ATTEMPTS, Store, StoreError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def add(store, owner="one", content=b"film", name="film.mp4"):
    path = store.incoming()
    path.write_bytes(content)
    return store.add_file(path, owner, name, f"{hash(content):x}", "user_data")


def test_a_second_server_is_kept_out_until_the_first_has_gone(folder):
    store = Store(folder)
    with pytest.raises(StoreError, match="in use by another server"):
        Store(folder)
    store.close()
    Store(folder).close()


def test_a_catalogue_of_a_newer_version_or_a_damaged_one_is_refused(folder):
    Store(folder).close()
    db = sqlite3.connect(folder / "catalogue.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="newer version"):
        Store(folder)
    (folder / "catalogue.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="cannot be used"):
        Store(folder)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be a server's folder"):
        Store(tmp_path / "file")


def test_a_port_that_is_taken_is_refused_in_a_line():
    with listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port} .*give another"):
            listening("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"cannot listen on no\.such\.host\.invalid:0"):
        listening("no.such.host.invalid", 0)


def test_what_a_killed_server_left_is_queued_again_or_removed(folder):
    store = Store(folder)
    file = add(store)
    job = store.add_memory(file, "k" * 40, {"fps": 1.0})
    assert store.begin_next()[0].id == job.id
    for place in ("incoming", "files", "memories"):
        (folder / place / "left").write_bytes(b"x")
    store.close()
    store = Store(folder)
    assert store.required_memory(job.id).status == "queued"
    assert [path.name for path in (folder / "incoming").iterdir()] == []
    assert [path.name for path in (folder / "files").iterdir()] == [file.sha256]
    for _ in range(MAX_ATTEMPTS - 1):
        store.begin_next()
        store.close()
        store = Store(folder)
    failed = store.required_memory(job.id)
    assert (failed.status, failed.error_code) == ("failed", "worker_lost")
    store.close()


def test_content_goes_with_the_last_file_that_has_it(folder):
    store = Store(folder)
    mine, theirs = add(store, "one"), add(store, "two")
    assert mine.id != theirs.id
    assert store.path_of(mine) == store.path_of(theirs)
    store.delete_file(mine)
    assert store.path_of(theirs).read_bytes() == b"film"
    store.delete_file(theirs)
    assert not store.path_of(theirs).exists()


def test_a_reading_whose_file_was_deleted_fails_and_the_next_is_begun(folder):
    store = Store(folder)
    gone, there = add(store, content=b"1"), add(store, content=b"2")
    first, second = store.add_memory(gone, "1" * 40, {}), store.add_memory(there, "2" * 40, {})
    store.delete_file(gone)
    assert store.begin_next()[0].id == second.id
    assert store.required_memory(first.id).error_code == "file_missing"


def test_bytes_are_counted_for_each_owner(folder):
    store = Store(folder)
    add(store, "one", b"12345")
    job = store.add_memory(add(store, "one", b"67"), "k" * 40, {})
    store.begin_next()
    assert store.finish_memory(job.id, {"bytes": 100})
    part = store.incoming()
    part.write_bytes(b"xyz")
    store.add_part(store.add_upload("one", "film", 10, ""), part)
    assert (store.stored_bytes("one"), store.stored_bytes("two")) == (110, 0)


def test_a_memory_that_ended_is_not_changed_by_a_late_reply(folder):
    store = Store(folder)
    job = store.add_memory(add(store), "k" * 40, {})
    store.begin_next()
    assert store.fail_memory(job.id, "cancelled", "cancelled")
    assert not store.finish_memory(job.id, {"bytes": 1})
    assert store.required_memory(job.id).status == "cancelled"
