"""Batched requests: which ones wait for each other, and their results."""

import concurrent.futures
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from grpc import StatusCode

from pipeline.errors import InputError
from serving.server.batching import Batcher, _work_of_rows
from serving.server.batching_options import BatchingOptions
from serving.server.limits import Limits
from serving.server.metrics import Metrics
from serving.server.runner import Runner
from serving.server.signature_spec import ServableSignature, TensorInfo
from serving.server.status import ServingError, invalid

DEADLINE_SECS = 60
LONG_MICROS = DEADLINE_SECS * 10**6


def signature_of(shape, dtype=tf.float32, outputs=None):
    info = TensorInfo(dtype, shape, "x:0")
    return ServableSignature("s", {"x": info}, {"y": info} if outputs is None else outputs, dict)


ROWS = signature_of((None,))


class Graph:
    """y = 2x; it records its inputs, fails for a row of 13, and waits for `go` on request."""

    def __init__(self):
        self.runs = []
        self.go = threading.Event()
        self.go.set()
        self.running = threading.Semaphore(0)

    def __call__(self, signature, inputs):
        self.runs.append(inputs["x"].tolist())
        self.running.release()
        assert self.go.wait(DEADLINE_SECS)
        if 13 in inputs["x"]:
            raise invalid("thirteen")
        return {"y": 2 * inputs["x"]}


@pytest.fixture
def graph():
    made = Graph()
    yield made
    made.go.set()


@pytest.fixture
def batcher(graph):
    """Make a batcher over the graph; running batches finish at the end of the test."""
    made = []

    def make(**options):
        made.append(Batcher(graph, BatchingOptions(**options), Metrics()))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(batcher, *values, signature=ROWS):
    return batcher.run(signature, {"x": np.array(values)})["y"].tolist()


def occupied(graph, batcher, pool):
    """Hold the batcher's only thread with a request of 1.5 until `go`."""
    graph.go.clear()
    held = pool.submit(ask, batcher, 1.5)
    assert graph.running.acquire(timeout=DEADLINE_SECS)
    return held


def queued(batcher, rows):
    """Wait until so many rows are queued."""
    deadline = time.monotonic() + DEADLINE_SECS
    while sum(b.rows for queue in list(batcher._queues.values()) for b in queue.batches) != rows:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def together(graph, batcher, requests):
    """Queue the requests in order behind one that runs, and return their answers or errors."""
    with concurrent.futures.ThreadPoolExecutor(len(requests) + 1) as pool:
        held = occupied(graph, batcher, pool)
        waiting, rows = [], 0
        for request in requests:
            waiting.append(pool.submit(ask, batcher, *request))
            rows += len(request)
            queued(batcher, rows)
        graph.go.set()
        assert held.result() == [3.0]
        return [future.exception() or future.result() for future in waiting]


def test_waiting_requests_run_together_and_each_gets_its_result(graph, batcher):
    answers = together(graph, batcher(num_batch_threads=1), [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]])
    assert answers == [[2.0, 4.0], [6.0], [8.0, 10.0, 12.0]]
    assert graph.runs == [[1.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]


def test_a_batch_is_full_at_its_size(graph, batcher):
    made = batcher(num_batch_threads=1, max_batch_size=4)
    together(graph, made, [[1.0, 2.0, 3.0], [4.0, 5.0], [6.0], [7.0, 8.0]])
    assert graph.runs[1:] == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0]]


def test_a_request_larger_than_a_batch_runs_alone(graph, batcher):
    made = batcher(num_batch_threads=1, max_execution_batch_size=2)
    assert together(graph, made, [[1.0], [2.0, 3.0, 4.0], [5.0]])[1] == [4.0, 6.0, 8.0]
    assert graph.runs[1:] == [[1.0], [2.0, 3.0, 4.0], [5.0]]


def test_a_large_request_is_split_if_that_is_enabled(graph, batcher):
    made = batcher(
        num_batch_threads=1, max_execution_batch_size=2, enable_large_batch_splitting=True
    )
    assert together(graph, made, [[1.0], [2.0, 3.0, 4.0, 5.0, 6.0]])[1] == [4.0, 6.0, 8.0, 10.0, 12]
    assert graph.runs[1:] == [[1.0], [2.0, 3.0], [4.0, 5.0], [6.0]]


def test_a_large_request_lets_others_have_their_turn(graph, batcher):
    made = batcher(
        num_batch_threads=1, max_execution_batch_size=2, enable_large_batch_splitting=True,
        max_enqueued_pieces=1,
    )  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        held = occupied(graph, made, pool)
        large = pool.submit(ask, made, 2.0, 3.0, 4.0, 5.0)
        queued(made, 2)
        small = pool.submit(ask, made, 6.0)
        queued(made, 3)
        graph.go.set()
        answers = [future.result() for future in (held, large, small)]
    assert answers == [[3.0], [4.0, 6.0, 8.0, 10.0], [12.0]]
    assert graph.runs.index([6.0]) < graph.runs.index([4.0, 5.0])


def test_a_batch_is_full_at_its_work(graph, batcher):
    made = batcher(
        num_batch_threads=1, max_execution_work=3, enable_large_batch_splitting=True
    )  # a number is a piece of work
    answers = together(graph, made, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0, 7.0, 8.0, 9.0]])
    assert answers == [[2.0, 4.0], [6.0, 8.0], [10.0, 12.0, 14.0, 16.0, 18.0]]
    assert graph.runs[1:] == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0, 7.0], [8.0, 9.0]]


def test_texts_count_by_their_bytes():
    inputs = {
        "text": np.array([b"abc", b"", b"\xc3\xa9"], np.object_),
        "ids": np.zeros([3, 4], np.int32),
    }
    assert _work_of_rows(inputs, 3) == [3 + 4, 4, 2 + 4]


def words(signature, inputs):
    """Each text's words, filled up to the most of the run; and twice its length in letters."""
    rows = [text.split() for text in inputs["x"]]
    most = max(map(len, rows))
    filled = [row + [b"[PAD]"] * (most - len(row)) for row in rows]
    widest = max(map(len, inputs["x"]))
    return {
        "words": np.array(filled, np.object_).reshape(len(rows), most),
        "letters": np.array([[len(text)] * widest for text in inputs["x"]]),
    }


@pytest.mark.parametrize("rows_a_run", [1, 2, 3, 4])
def test_pieces_of_a_large_request_have_the_shapes_of_one_run(rows_a_run):
    texts = [b"a", b"a b c d", b"", b"wwwwwwwwwwwwwwwwwww", b"a b", b"c", b"a b c d"]
    inputs = {"x": np.array(texts, np.object_)}
    sizes = []

    def run(signature, part):
        sizes.append(len(part["x"]))
        return words(signature, part)

    options = BatchingOptions(
        max_execution_batch_size=rows_a_run, enable_large_batch_splitting=True
    )
    made = Batcher(run, options, Metrics())
    outputs = made.run(ROWS, inputs)
    made.close()
    expected = words(ROWS, inputs)
    assert outputs["words"].tolist() == expected["words"].tolist()
    assert outputs["letters"].tolist() == expected["letters"].tolist()
    assert max(sizes) <= rows_a_run + 2  # with the longest by words and the longest by letters


def test_a_large_request_with_unpredictable_output_shapes():
    def run(_, part):
        return {"y": np.zeros([len(part["x"]), len(part["x"]) % 2 + 1])}

    options = BatchingOptions(max_execution_batch_size=2, enable_large_batch_splitting=True)
    made = Batcher(run, options, Metrics())
    with pytest.raises(ServingError, match="depend on more than its longest rows; send at most 2"):
        made.run(ROWS, {"x": np.zeros(5)})
    made.close()


def test_a_large_request_stops_when_its_outputs_take_too_much_memory(graph):
    options = BatchingOptions(
        max_execution_batch_size=2, enable_large_batch_splitting=True, max_enqueued_pieces=1
    )
    made = Batcher(graph, options, Metrics(), max_output_bytes=40)
    with pytest.raises(ServingError, match=r"The answer takes \d+ bytes, and 40 are allowed"):
        ask(made, *range(100))
    assert ask(made, 1.5, 2.5, 3.5) == [3.0, 5.0, 7.0]
    made.close()
    assert graph.runs == [[0, 1], [2, 3], [4, 5], [1.5, 2.5], [3.5]]


def test_batches_are_filled_up_to_an_allowed_size(graph, batcher):
    made = batcher(num_batch_threads=1, max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    assert together(graph, made, [[1.0, 2.0], [3.0]]) == [[2.0, 4.0], [6.0]]
    assert graph.runs[1:] == [[1.0, 2.0, 3.0, 3.0]]


def test_a_failing_request_fails_alone(graph, batcher):
    requests = [[1.0], [2.0], [13.0], [4.0], [5.0]]
    answers = together(graph, batcher(num_batch_threads=1), requests)
    assert [answer for answer in answers if isinstance(answer, list)] == [
        [2.0],
        [4.0],
        [8.0],
        [10.0],
    ]
    assert str(answers[2]) == "INVALID_ARGUMENT: thirteen"


def test_a_full_queue_answers_like_the_real_server(graph, batcher):
    made = batcher(num_batch_threads=1, max_batch_size=1, max_enqueued_batches=2)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        held = occupied(graph, made, pool)
        waiting = [pool.submit(ask, made, value) for value in (1.0, 2.0)]
        queued(made, 2)
        with pytest.raises(ServingError) as caught:
            ask(made, 3.0)
        graph.go.set()
        assert [future.result() for future in (held, *waiting)] == [[3.0], [2.0], [4.0]]
    assert caught.value.code == StatusCode.UNAVAILABLE
    assert caught.value.message == (
        "The batch scheduling queue to which this task was submitted is full; currently 2 batches "
        "enqueued and max_enqueued_batches is 2"
    )
    assert ask(made, 4.0) == [8.0]


def test_a_task_over_the_size_is_refused_as_by_the_real_server(batcher):
    made = batcher(max_batch_size=8)
    with pytest.raises(ServingError) as caught:
        ask(made, *range(9))
    assert str(caught.value) == (
        "INVALID_ARGUMENT: Task size 9 is larger than maximum input batch size 8"
    )


def test_the_first_request_waits_only_until_the_batch_is_full(graph, batcher):
    made = batcher(max_batch_size=3, batch_timeout_micros=LONG_MICROS)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda value: ask(made, value), (1.0, 2.0, 3.0)))
    assert answers == [[2.0], [4.0], [6.0]]
    assert [sorted(run) for run in graph.runs] == [[1.0, 2.0, 3.0]]


def test_the_first_waits_no_longer_than_the_timeout(graph, batcher):
    made = batcher(batch_timeout_micros=1000)
    assert ask(made, 1.0) == [2.0]


def test_closing_runs_waiting_requests(graph, batcher):
    made = batcher(batch_timeout_micros=LONG_MICROS)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, made, 1.0)
        queued(made, 1)
        made.close()
        assert waiting.result(DEADLINE_SECS) == [2.0]


def test_other_shapes_are_batched_apart_or_padded_with_their_first_element(graph, batcher):
    requests = [[[1.0, 2.0]], [[3.0]], [[4.0, 5.0]]]
    together(graph, batcher(num_batch_threads=1), requests)
    assert sorted(graph.runs[1:]) == [[[1.0, 2.0], [4.0, 5.0]], [[3.0]]]
    graph.runs.clear()
    padded = batcher(num_batch_threads=1, pad_variable_length_inputs=True)
    answers = together(graph, padded, requests)
    assert graph.runs[1:] == [[[1.0, 2.0], [3.0, 3.0], [4.0, 5.0]]]
    assert answers[1] == [[6.0, 6.0]]


def row_of(ids, mask, kinds):
    return {"ids": np.ones([1, ids]), "kinds": np.ones([1, kinds]), "mask": np.ones([1, mask])}


@pytest.mark.parametrize(
    ("odd", "others"),
    [
        (row_of(6, 1, 2), [row_of(9, 9, 2)]),  # a mask of one column
        (row_of(6, 9, 2), [row_of(9, 9, 2)]),
        (row_of(2, 6, 2), [row_of(6, 2, 2)]),  # together as long as each other
        (row_of(6, 6, 1), [row_of(9, 9, 2)]),  # shorter than the signature says
        (row_of(0, 0, 2), [row_of(9, 9, 2)]),  # nothing to pad with
    ],
)
def test_padding_makes_no_request_right_that_is_wrong_alone(batcher, graph, odd, others):
    open_axis, two = (
        TensorInfo(tf.float32, (None, None), "x"),
        TensorInfo(tf.float32, (None, 2), "k"),
    )
    signature = ServableSignature(
        "s", {"ids": open_axis, "kinds": two, "mask": open_axis}, {}, dict
    )
    right = row_of(4, 4, 2)

    def run(_, inputs):
        if "x" in inputs:
            return graph(_, inputs)
        shapes = [array.shape for array in inputs.values()]
        graph.runs.append(shapes)
        (_, ids), (_, kinds), (rows, mask) = shapes
        if not ids == mask or kinds != 2 or not ids:
            raise invalid("shapes")
        return {"y": np.zeros([rows])}

    made = batcher(num_batch_threads=1, pad_variable_length_inputs=True)
    made._run = run
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        held = occupied(graph, made, pool)
        waiting = []
        for number, request in enumerate([odd, *others, right], 1):
            waiting.append(pool.submit(made.run, signature, request))
            queued(made, number)
        graph.go.set()
        held.result()
        answers = [future.exception() or "right" for future in waiting]
    assert str(answers[0]) == "INVALID_ARGUMENT: shapes"
    assert answers[-1] == "right"
    if others[0]["ids"].shape == others[0]["mask"].shape:
        assert answers[1] == "right"
        assert [(2, 9), (2, 2), (2, 9)] in graph.runs  # the right ones were one batch
    else:
        assert str(answers[1]) == "INVALID_ARGUMENT: shapes"


def test_other_signatures_are_batched_apart(graph, batcher):
    made, other = batcher(num_batch_threads=1), signature_of((None,))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        occupied(graph, made, pool)
        waiting = [pool.submit(ask, made, 1.0), pool.submit(ask, made, 2.0, signature=other)]
        queued(made, 2)
        graph.go.set()
        assert [future.result() for future in waiting] == [[2.0], [4.0]]
    assert sorted(graph.runs[1:]) == [[1.0], [2.0]]


class Saved(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "x")])
    def run(self, x):
        return {"y": x + "!"}


def runner_of(signature_outputs, **options):
    info = TensorInfo(tf.string, (None,), "x:0")
    signature = ServableSignature("s", {"x": info}, signature_outputs, Saved().run)
    return Runner(Limits(max_concurrent_runs=2), BatchingOptions(**options)), signature


@pytest.mark.parametrize("outputs", [{"y": (None,)}, {"y": ()}, {"y": None}])
def test_a_runner_batches_only_what_has_rows(outputs, monkeypatch):
    runner, signature = runner_of(
        {name: TensorInfo(tf.string, shape, "y:0") for name, shape in outputs.items()},
        max_batch_size=1,
    )
    two = {"x": np.array([b"a", b"b"], np.object_)}
    if outputs == {"y": (None,)}:
        with pytest.raises(ServingError, match="Task size 2 is larger"):
            runner.run(signature, two)
    else:
        assert runner.run(signature, two)["y"].tolist() == [b"a!", b"b!"]
    runner.close()


def test_an_empty_batch_waits_for_no_other():
    outputs = {"y": TensorInfo(tf.string, (None,), "y:0")}
    runner, signature = runner_of(outputs, batch_timeout_micros=LONG_MICROS)
    assert runner.run(signature, {"x": np.array([], dtype=object)})["y"].tolist() == []
    runner.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size: expected 1 or more, received 0"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros: expected 0 or more, received -1"),
        (
            {"allowed_batch_sizes": (4,), "max_batch_size": 8},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        (
            {"allowed_batch_sizes": (4, 4), "max_batch_size": 4},
            r"allowed_batch_sizes entries must be monotonically increasing; received \[4, 4\]",
        ),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(InputError, match=message):
        BatchingOptions(**options)


def test_outputs_are_freed_before_the_next_batch():
    made = []

    def run(signature, inputs):
        outputs = {"y": 2 * inputs["x"]}
        made.append(weakref.ref(outputs["y"]))
        return outputs

    batcher = Batcher(run, BatchingOptions(num_batch_threads=1), Metrics())
    try:
        answer = batcher.run(ROWS, {"x": np.float32([5])})
        assert answer["y"].tolist() == [10]
        del answer
        deadline = time.monotonic() + DEADLINE_SECS
        while made[0]() is not None:
            assert time.monotonic() < deadline, "the thread still holds the outputs"
            time.sleep(0.01)
    finally:
        batcher.close()
