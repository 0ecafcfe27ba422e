"""What torch.compile has to be told so that hooks are heard, for as long as somebody listens.

Code compiled for a model belongs to its class: by default it does not check for hooks, so that of a model without hooks
would run one that has some, and skip them; and a block that is checkpointed would hand over its tokens once more in
backward. Two settings of torch._dynamo change that. They are process-wide, so they are set only where they differ, with
the first listener; code compiled before, which lacks the check, is then dropped and compiled again when it next runs.
The values before come back with the last listener's end.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Any

import torch

SETTINGS = {"skip_nnmodule_hook_guards": False, "skip_fwd_side_effects_in_bwd_under_checkpoint": True}


class _Lease:
    """The settings, held by a number of listeners."""

    def __init__(self) -> None:
        self.holders, self.before, self.lock = 0, {}, threading.RLock()

    def take(self) -> None:
        """One more listener: the first one sets what differs."""
        config = torch._dynamo.config
        with self.lock:
            self.holders += 1
            differing = {name: value for name, value in SETTINGS.items() if getattr(config, name) != value}
            for name, value in differing.items():
                self.before.setdefault(name, getattr(config, name))
                setattr(config, name, value)
            if "skip_nnmodule_hook_guards" in differing:
                torch.compiler.reset()

    def give_back(self) -> None:
        """One listener less: the last one restores what was there, but for what somebody else has set since."""
        config = torch._dynamo.config
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                for name, value in self.before.items():
                    if getattr(config, name) == SETTINGS[name]:
                        setattr(config, name, value)
                self.before = {}


_LEASE = _Lease()


def hold_settings(listener: Any) -> weakref.finalize:
    """Hold the settings while `listener` lives; calling the result ends it earlier, once."""
    _LEASE.take()
    end = weakref.finalize(listener, _LEASE.give_back)
    end.atexit = False
    return end


def is_compiled(model: torch.nn.Module) -> bool:
    """Whether `model` is what torch.compile returned."""
    return isinstance(model, torch._dynamo.OptimizedModule)


def in_backward() -> bool:
    """Whether autograd is running, as when a checkpointed part runs once more; never inside compiled code."""
    if torch.compiler.is_compiling():
        return False
    with contextlib.suppress(AttributeError):  # a private name of PyTorch's
        return torch._C._current_graph_task_id() != -1
    return False
