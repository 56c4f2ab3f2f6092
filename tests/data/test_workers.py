"""Batches from worker processes: the same ones, in the same order, and nothing left behind, whatever happens."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from minidl.data import ArrayDataset, DataLoader, Subset, Transformed, WorkerError
from minidl.data.dataset import gather, sample_generator


@pytest.fixture(autouse=True)
def _nothing_stays():
    """No process of this test lives on."""
    yield
    gc.collect()
    until = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


class Noisy:
    """Items that are chance."""

    def __init__(self, count=10):
        self.count = count

    def __len__(self):
        return self.count

    def sample(self, index, rng):
        return rng.random(3), index

    def __getitem__(self, index):
        raise AssertionError("the loader hands every item its own Generator")


class Bad:
    """An item that cannot be had."""

    def __init__(self, what, bad=5):
        self.what, self.bad = what, bad

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == self.bad:
            if self.what == "raise":
                raise KeyError("no such picture")
            if self.what == "awkward":
                raise Awkward("left", "right")
            if self.what == "exit":
                os._exit(7)
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "slow":
                time.sleep(60)
            if self.what == "unpicklable":
                return (lambda: 0,)
        return np.zeros(2), os.getpid()


class Awkward(Exception):
    """Pickles, but does not unpickle."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Large:
    """Items that do not fit into a pipe, and tell when they were made."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return np.full(1_000_000, index, np.uint8), time.monotonic()


def flip(x, rng):
    return x[::-1] if rng.random() < 0.5 else x


def add_noise(x, rng):
    return x + rng.random()


def stream(loader, epochs):
    return [[np.asarray(x).tolist() for x in batch] for _ in range(epochs) for batch in loader]


@pytest.mark.parametrize(
    "data",
    [
        Noisy(),
        Subset(Noisy(), [7, 3, 3, 0, 9, 1]),
        Transformed(ArrayDataset(np.arange(9.0), np.arange(9)), add_noise),
        ArrayDataset(np.arange(9)),
    ],
    ids=["chance", "subset", "transformed", "arrays"],
)
def test_batches_are_the_same_for_any_number_of_workers(data):
    alone = stream(DataLoader(data, 2, shuffle=True, seed=3), 2)
    loader = DataLoader(data, 2, shuffle=True, seed=3, num_workers=3, prefetch_factor=3)
    assert stream(loader, 2) == alone
    loader.close()
    assert alone[: len(alone) // 2] != alone[len(alone) // 2 :]


def test_chance_differs_between_epochs_and_items_and_is_kept_apart_from_the_order():
    first, second = stream(DataLoader(Noisy(), 10), 2)
    assert len({tuple(row) for row in first[0] + second[0]}) == 20
    assert stream(DataLoader(Noisy(), 10, seed=1), 1)[0] != first
    # SeedSequence([s, e]) and SeedSequence([s, e, 0]) are one: item 0 must not use the numbers of the permutation
    assert sample_generator(4, 2, 0).random() != np.random.default_rng([4, 2]).random()


@pytest.mark.parametrize(("taken", "before", "after"), [(0, 2, 0), (2, 0, 2), (3, 2, 3), (5, 3, 1), (7, 1, 0)])
def test_resuming_is_exact_whatever_the_number_of_workers(taken, before, after):
    def make(workers):
        return DataLoader(Noisy(), 2, shuffle=True, seed=7, num_workers=workers)

    expected = stream(make(0), 3)
    loader, seen = make(before), []
    while len(seen) < taken:
        for batch in loader:
            seen.append([x.tolist() for x in batch])
            if len(seen) == taken:
                state = loader.state_dict()  # batches made ahead must not count
                break
    resumed = make(after)
    resumed.load_state_dict(state if taken else loader.state_dict())
    assert seen + stream(resumed, 2 if taken >= 5 else 3) == expected


def test_workers_stay_for_the_next_epoch_and_end_with_close():
    loader = DataLoader(Bad("nothing"), 2, num_workers=2)
    first = {int(pid) for batch in loader for pid in batch[1]}
    second = {int(pid) for batch in loader for pid in batch[1]}
    assert first == second and len(first) == 2 and os.getpid() not in first
    assert len(multiprocessing.active_children()) == 2
    loader.close()
    loader.close()
    assert not multiprocessing.active_children()
    assert len(list(loader)) == 4
    loader.close()


def test_workers_end_with_the_loader():
    loader = DataLoader(Noisy(), 2, num_workers=1)
    list(loader)
    assert len(multiprocessing.active_children()) == 1
    del loader
    gc.collect()
    assert not multiprocessing.active_children()


def test_workers_end_when_a_loop_is_left():
    loader = DataLoader(Bad("slow", bad=7), 1, num_workers=2, prefetch_factor=4)
    began = time.monotonic()
    for _ in loader:  # by then one of them sleeps
        break
    assert not multiprocessing.active_children()

    def fails():
        for _ in loader:
            raise RuntimeError("of the training step")

    with pytest.raises(RuntimeError, match="of the training step"):
        fails()
    assert not multiprocessing.active_children()
    assert time.monotonic() - began < 20


def test_two_loops_at_once_do_not_mix():
    loader = DataLoader(ArrayDataset(np.arange(6)), 2, num_workers=1)
    pairs = [(a[0].tolist(), b[0].tolist()) for a, b in zip(loader, loader, strict=True)]
    assert pairs == [([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4, 5], [4, 5])]
    loader.close()


def test_workers_go_on_while_nobody_asks():
    loader = DataLoader(Large(), 1, num_workers=1, prefetch_factor=3)
    batches = iter(loader)
    next(batches)
    time.sleep(1)
    asked = time.monotonic()
    assert next(batches)[1][0] < asked and next(batches)[1][0] < asked  # the second does not fit into the pipe
    assert [int(batch[0][0, 0]) for batch in batches] == [3, 4, 5, 6, 7]
    loader.close()


def test_an_error_of_the_dataset_tells_item_and_traceback():
    loader = DataLoader(Bad("raise"), 2, num_workers=2)
    with pytest.raises(WorkerError) as caught:
        list(loader)
    text = str(caught.value)
    assert "worker 0 failed in batch 2 of epoch 0, item 5 of Bad: KeyError: 'no such picture'" in text
    assert 'raise KeyError("no such picture")' in text  # the line, from the worker's traceback
    assert isinstance(caught.value.__cause__, KeyError)
    assert loader.state_dict()["position"] == 2  # the batch that failed is the next one
    assert not multiprocessing.active_children()


def test_an_error_without_workers_tells_the_item_too():
    with pytest.raises(KeyError) as caught:
        list(DataLoader(Bad("raise"), 2))
    assert caught.value.__notes__ == ["item 5 of Bad"]
    with pytest.raises(IndexError) as index:
        gather(ArrayDataset(np.zeros(2)), np.array([0, 2]))
    assert index.value.__notes__ == ["one of the items 0, 2 of ArrayDataset"]


def test_errors_and_batches_that_do_not_travel_are_told_too():
    with pytest.raises(WorkerError, match=r"item 5 of Bad: Awkward: left and right") as caught:
        list(DataLoader(Bad("awkward"), 2, num_workers=1))
    assert caught.value.__cause__ is None
    with pytest.raises(WorkerError, match=r"batch 5 of epoch 0: .*(pickle|local object)"):
        list(DataLoader(Bad("unpicklable"), 1, num_workers=1))


@pytest.mark.parametrize(("how", "word"), [("exit", "exit code 7"), ("kill", "SIGKILL; often .* memory ran out")])
def test_a_dead_worker_is_told(how, word):
    # item 5 kills it; batch 3 may still be on its way then, and be lost too
    with pytest.raises(WorkerError, match=f"worker 1 died before it delivered batch [35] of epoch 0: {word}"):
        list(DataLoader(Bad(how), 1, num_workers=2))
    assert not multiprocessing.active_children()


def test_a_dataset_that_cannot_be_sent_is_told():
    data = Transformed(ArrayDataset(np.zeros(3)), lambda x, rng: x)
    with pytest.raises(TypeError, match="num_workers is 1: the dataset has to be pickled"):
        list(DataLoader(data, num_workers=1))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="num_workers is -1"):
        DataLoader(Noisy(), num_workers=-1)
    with pytest.raises(ValueError, match="prefetch_factor is 0"):
        DataLoader(Noisy(), prefetch_factor=0)


def test_items_of_different_shapes_are_told():
    class Ragged:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return (np.zeros((2, 2 + index)),)

    with pytest.raises(ValueError, match=r"item 0 is \(2, 2\) and item 1 is \(2, 3\): resize or crop"):
        list(DataLoader(Ragged(), 3))


# --- whole programs: what a terminal would see

PROGRAM = """
    import multiprocessing, os, sys, time
    import numpy as np
    from minidl.data import ArrayDataset, DataLoader

    class Slow:
        def __len__(self):
            return 100
        def __getitem__(self, index):
            if index > 4:
                time.sleep(30)
            return (np.zeros(2),)

    def main():
        if sys.argv[1] == "done":
            loader = DataLoader(ArrayDataset(np.arange(8)), 2, num_workers=2)
            print([batch[0].tolist() for batch in loader])
            globals()["kept"] = loader
            return
        for i, _ in enumerate(DataLoader(Slow(), 1, num_workers=2)):
            if i == 2:
                print(*[process.pid for process in multiprocessing.active_children()], flush=True)
"""
GUARD = '\nif __name__ == "__main__":\n    main()\n'


def start(tmp_path, word, guard=GUARD):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM) + guard)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, str(script), word],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids):
    until = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not [pid for pid in pids if alive(pid)]


def test_a_program_ends_with_workers_waiting(tmp_path):
    out, err = start(tmp_path, "done").communicate(timeout=30)
    assert (out, err) == ("[[0, 1], [2, 3], [4, 5], [6, 7]]\n", "")


def test_ctrl_c_ends_everything_with_one_traceback(tmp_path):
    with start(tmp_path, "slow") as program:
        pids = [int(word) for word in program.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, err = program.communicate(timeout=30)
    wait_until_gone(pids)
    assert err.count("Traceback") == 1 and err.rstrip().endswith("KeyboardInterrupt")


def test_workers_notice_that_the_program_was_killed(tmp_path):
    with start(tmp_path, "slow") as program:
        pids = [int(word) for word in program.stdout.readline().split()]
        program.kill()
        program.communicate(timeout=30)
    assert len(pids) == 2
    wait_until_gone(pids)


def test_a_script_without_its_guard_is_told_what_to_do(tmp_path):
    _, err = start(tmp_path, "done", "\nmain()\n").communicate(timeout=30)
    assert "WorkerError" in err and 'if __name__ == "__main__":' in err.rpartition("WorkerError")[2]
