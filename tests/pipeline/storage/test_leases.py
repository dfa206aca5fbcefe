"""Leases of remote directories: one writer, whatever the clocks say."""

import contextlib
import dataclasses
import threading

import pytest

from pipeline.errors import InputError, JobError
from pipeline.storage import leases
from pipeline.storage.files import write_atomically
from pipeline.storage.leases import LEASE, LEASE_SECS, LeaseHolder, read_holder
from pipeline.storage.locks import only_writer, only_writer_of_output
from pipeline.storage.remote import path_from
from pipeline.storage.strict_json import to_json

RUN = "gs://bucket/run"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(leases, "_SETTLE_SECS", 0.0)


def left_by(run: str = RUN, **changes) -> LeaseHolder:
    holder = dataclasses.replace(LeaseHolder.of_this_process(), **changes)
    write_atomically(path_from(run) / LEASE, to_json(dataclasses.asdict(holder)).encode())
    return holder


def test_second_writer_is_refused_and_the_first_one_releases(store):
    with only_writer(path_from(RUN), "`run_dir`"):
        with (
            pytest.raises(InputError, match="`run_dir`: is being written by process"),
            only_writer(path_from(RUN), "`run_dir`"),
        ):
            pass
        assert [*store.objects] == [f"bucket/run/{LEASE}"]
    assert store.objects == {}


def test_an_output_has_one_writer(store):
    path = path_from("gs://bucket/new/v.txt")
    with only_writer_of_output(path, "`output`"):
        with (
            pytest.raises(InputError, match="`output`: is being written by process"),
            only_writer_of_output(path, "`output`"),
        ):
            pass
        with only_writer_of_output(path_from("gs://bucket/new/w.txt"), "`output`"):
            pass
        assert not path.exists()
        assert [*store.objects] == ["bucket/new/.v.txt-lease"]
        write_atomically(path, b"text")
    assert [*store.objects] == ["bucket/new/v.txt"]


def test_a_writer_that_waits_says_so_and_waits_as_long_as_the_other_lives(store, monkeypatch):
    monkeypatch.setattr(leases, "NOTICE_SECS", 0)
    said, first = [], contextlib.ExitStack()

    def end_it(*given_and_holder: object) -> None:
        said.append(given_and_holder)
        first.close()

    monkeypatch.setattr(leases, "tell_of_waiting", end_it)
    first.enter_context(only_writer(path_from(RUN), "`run_dir`"))
    before = read_holder(path_from(RUN) / LEASE)
    with only_writer(path_from(RUN), "`output`", waits=True):
        assert read_holder(path_from(RUN) / LEASE).id != before.id
    assert said == [("`output`", before)]


def test_a_whole_bucket_has_no_place_for_a_lease_next_to_it(store):
    with only_writer_of_output(path_from("gs://bucket"), "`run_dir`"):
        assert store.objects == {}


def test_no_output_is_written_after_another_process_took_its_lease_over(store, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_SECS", 0.01)
    path = path_from("gs://bucket/v.txt")
    lease = path_from("gs://bucket/.v.txt-lease")
    with only_writer_of_output(path, "`output`"):
        other = dataclasses.replace(LeaseHolder.of_this_process(), id="other", host="node7")
        lease.write_bytes(to_json(dataclasses.asdict(other)).encode())
        for thread in threading.enumerate():
            if thread.name == "lease":
                thread.join(60)  # it ends when it sees the other's lease
        with pytest.raises(JobError, match=r"v\.txt: process .* on node7, .* has taken over"):
            write_atomically(path, b"")
    assert read_holder(lease).id == "other"
    assert not path.exists()


def test_lease_of_a_dead_process_of_this_machine_is_taken_over(store):
    left_by(id="dead", pid=2**22 + 1)  # above Linux's limit of process ids
    with only_writer(path_from(RUN), "`run_dir`"):
        assert read_holder(path_from(RUN) / LEASE).id != "dead"
    assert store.objects == {}


@pytest.mark.parametrize("skew_secs", [-86_400.0, 0.0, 86_400.0])
def test_age_of_a_lease_is_that_of_the_stores_clock(store, skew_secs):
    now = [1_000_000.0 + skew_secs]
    store.now = lambda: now[0]
    left_by(id="elsewhere", host="node7")
    now[0] += LEASE_SECS - 1
    with (
        pytest.raises(InputError, match=r"process .* on node7, since .*"),
        only_writer(path_from(RUN), "`run_dir`"),
    ):
        pass
    assert read_holder(path_from(RUN) / LEASE).id == "elsewhere"
    now[0] += 1
    with only_writer(path_from(RUN), "`run_dir`"):
        assert read_holder(path_from(RUN) / LEASE).id != "elsewhere"


@pytest.mark.parametrize("run", [RUN, "gs://bucket"])
def test_nothing_is_written_after_another_process_took_the_lease_over(store, monkeypatch, run):
    monkeypatch.setattr(leases, "RENEW_SECS", 0.01)
    store.buckets.add("other")
    path = path_from(run)
    with only_writer(path, "`run_dir`"):
        left_by(run, id="other", host="node7")
        for thread in threading.enumerate():
            if thread.name == "lease":
                thread.join(60)  # it ends when it sees the other's lease
        with pytest.raises(JobError, match=r"on node7, .* has taken over; nothing more is written"):
            write_atomically(path / "metrics.jsonl", b"")
        write_atomically(path_from("gs://other/elsewhere"), b"")
    assert read_holder(path / LEASE).id == "other"


def test_renewal_writes_the_lease_again(store, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_SECS", 0.01)
    renewed = threading.Event()

    def fail(method: str, key: str) -> None:
        if method == "put" and [*store.requests].count(("put", key)) > 3:
            renewed.set()

    store.fail = fail
    with only_writer(path_from(RUN), "`run_dir`"):
        assert renewed.wait(60)


def test_two_leases_may_be_lost_at_once(monkeypatch):
    class LostMeanwhile(str):
        def rstrip(self, _):
            leases._lost["gs://bucket/other"] = "taken over"
            return str(self)

    monkeypatch.setattr(leases, "_lost", {LostMeanwhile(RUN): "taken over", "gs://b": ""})
    leases.check_not_lost(path_from("gs://bucket/third/file"))
