"""A worker that was killed is told wherever its error appears; workers that ended as they should are not."""

import os
import signal

import pytest
from torch.utils.data import DataLoader, Dataset

from core.processes.failures import LoaderError, NonFiniteError
from core.processes.workers import LoaderWorkers


class Numbers(Dataset):
    """0 to 63; the process that reads `deadly` kills itself."""

    def __init__(self, deadly=None):
        self.deadly = deadly

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def killed(error):
    return LoaderError(f"killed: {error}")


def read(error, deadly=None):
    workers = LoaderWorkers()
    with workers.told(killed):
        for _ in workers.read(DataLoader(Numbers(deadly), batch_size=4, num_workers=1)):
            pass
        raise error


def test_a_killed_worker_is_told_and_ends_that_are_no_kill_are_not():
    with pytest.raises(LoaderError, match=r"^killed: "):
        read(ValueError("of what follows"), deadly=32)
    with pytest.raises(ValueError, match="of what follows"):
        read(ValueError("of what follows"))


def test_an_error_of_ours_says_itself_why_the_run_ends():
    workers = LoaderWorkers()
    with pytest.raises(NonFiniteError, match="step 3"), workers.told(killed):
        for number, _ in enumerate(workers.read(DataLoader(Numbers(), batch_size=4, num_workers=1))):
            if number == 3:
                raise NonFiniteError("step 3")


def test_nothing_is_raised_wherever_the_main_process_happens_to_be():
    before, workers = signal.getsignal(signal.SIGCHLD), LoaderWorkers()
    for _ in workers.read(DataLoader(Numbers(), batch_size=4, num_workers=1)):
        assert signal.getsignal(signal.SIGCHLD) == before == signal.SIG_DFL
