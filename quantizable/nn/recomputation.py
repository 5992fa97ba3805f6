"""The mode that a backward pass meets where activation checkpointing computes a layer again.

Every checkpoint (``torch.utils.checkpoint`` reentrant or not, timm's, torchvision's, a user's own) runs
the forward of its layers once more inside a backward pass, whatever mode the network is in by then.
Autograd numbers its nodes in the order of their making. So a list of the numbers at which the network was
switched tells the mode in which the node was made that asks for the recomputation.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from quantizable.bits import BitMode

KEPT = 1024  # switches remembered, of those that nodes were made between


class ModeHistory:
    """The modes of a network in the order of the graph's nodes; shared by its switchable layers.

    While a backward pass computes a layer again, the network is in the mode of that layer's forward pass;
    when the pass has ended it is again in the one that it was in.

    Attributes:
        modules: what is switched, by name.
        current: the assignment that the user asked for.
        running: one entry for each forward pass of the network that runs just now.
    """

    modules: dict[str, Any]
    current: Any

    def __init__(self) -> None:
        self.__setstate__({"current": None})

    def __getstate__(self) -> dict[str, Any]:
        # numbers mean nothing in another process, a copy has no graph yet, and the copy of a single layer
        # is no reason to copy the network: it says anew what its modules are
        return {"current": self.current}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.modules = {}
        self.current = self.at = state["current"]  # `at`: where the layers point
        self.past: deque[tuple[int, Any]] = deque()  # (first number that is not its own, mode)
        self.forgotten = 0  # nodes below are of switches that the list no longer has
        self.threads: set[int] = set()
        self.buffers: dict[nn.Module, dict[str, Tensor]] = {}
        self.running: list[None] = []
        self.task: int | None = None  # the backward pass that computes layers again
        self.chosen: tuple[int, int, Any, Any] | None = None  # see record

    def record(self, assignment: Any) -> None:
        """Switch the network, and remember until which node it was in the mode before.

        Raises:
            RuntimeError: a forward pass is running.
        """
        if self.running:
            raise RuntimeError(
                "the network cannot be switched while a forward pass of it is running, by a hook or another "
                "thread; switch before or after it, or give each thread a copy.deepcopy of the network"
            )
        task = torch._C._current_graph_task_id()
        point_to = assignment
        if task == -1:
            self.leave()
            self._log()
        else:  # a checkpointed function that switches by itself, and back
            node = _current_node()
            if self.chosen is None or self.chosen[:2] != (task, node):
                self.chosen = (task, node, self.current, self.at)
            elif assignment is self.chosen[2]:
                point_to, self.chosen = self.chosen[3], None
            self._leave_after(task)
        self._point(point_to)
        self.current = assignment

    def _point(self, assignment: Any) -> None:
        if isinstance(assignment, BitMode):
            for module in self.modules.values():
                module.set_bits(assignment)
        else:
            for name, module in self.modules.items():
                if name in assignment:  # else it is in the place of another since
                    module.set_bits(assignment[name])
        self.at = assignment

    def _log(self) -> None:
        number = torch.autograd._get_sequence_nr()
        self.note_thread()
        if self.past and self.past[-1][0] >= number:  # no node was made in the mode before
            return
        self.past.append((number, self.current))
        if len(self.past) > KEPT:
            self.forgotten = self.past.popleft()[0]

    def renew(self, modules: dict[str, Any], before: dict[str, Any], modes: list[BitMode]) -> None:
        """Take other modules: known ones stay in their mode, new ones take that of their place."""
        if not isinstance(self.current, BitMode):
            held = {id(module): self.current[name] for name, module in before.items()}
            assignment, latest = {}, modes[-1]
            for name, module in modules.items():
                assignment[name] = held.get(id(module)) or self.current.get(name, latest)
                latest = assignment[name] if assignment[name] in modes else latest
            self.current = copy.copy(self.current)  # of a named assignment it keeps the name
            self.current.clear()
            self.current.update(assignment)
        self.modules = modules
        self._point(self.current)

    @contextmanager
    def running_forward(self) -> Iterator[None]:
        """For the length of a forward pass: no switch, and its thread is remembered where it makes nodes."""
        if torch.is_grad_enabled():
            self.note_thread()
        self.running.append(None)
        try:
            yield
        finally:
            self.running.pop()

    def note_thread(self) -> None:
        """Remember the thread that runs or switches the network: each numbers its nodes on its own."""
        self.threads.add(threading.get_ident())

    def mode_of(self, node: int) -> Any:
        """The assignment that the network was in when the node of that number was made.

        Raises:
            RuntimeError: that cannot be known.
        """
        if len(self.threads) > 1:
            raise RuntimeError(
                "the network was switched or run in several threads, so that a checkpoint cannot know the "
                "mode of its forward pass; give each thread a copy.deepcopy of the network"
            )
        if node < self.forgotten:
            raise RuntimeError(
                f"the network was switched more than {KEPT} times since the forward pass that a checkpoint "
                "computes again; go backward earlier"
            )
        found = self.current
        for end, assignment in reversed(self.past):
            if node >= end:
                break
            found = assignment
        return found

    def enter(self) -> bool:
        """True, and the network in the mode of the forward pass, if a backward pass computes again."""
        task = torch._C._current_graph_task_id()
        if task == -1:
            self.leave()
            return False
        node = _current_node()
        if self.chosen is not None and self.chosen[:2] == (task, node):
            return True
        if self.task is not None and task != self.task:
            return True  # a checkpoint inside one: its nodes were made by this very backward pass
        self._leave_after(task)
        wanted = self.mode_of(node)
        if wanted is not self.at:
            self._point(wanted)
        return True

    def watch(self, norm: nn.Module) -> None:
        """Let a norm of all modes see each batch once: what recomputing changes in its buffers is undone."""
        if not any(is_watch(hook) for hook in norm._forward_pre_hooks.values()):
            norm.register_forward_pre_hook(self.keep_buffers)
            norm.register_forward_hook(self.put_buffers_back)

    def keep_buffers(self, norm: nn.Module, args: Any) -> None:
        """Before a forward pass of ``norm``."""
        if not torch.compiler.is_compiling() and self.enter():
            self.buffers[norm] = {name: buffer.clone() for name, buffer in norm.named_buffers()}

    def put_buffers_back(self, norm: nn.Module, args: Any, output: Any) -> None:
        """After it."""
        if not torch.compiler.is_compiling():
            for name, buffer in self.buffers.pop(norm, {}).items():
                norm.get_buffer(name).copy_(buffer)

    def _leave_after(self, task: int) -> None:
        if self.task is None:
            self.task = task
            Variable._execution_engine.queue_callback(self.leave)

    def leave(self) -> None:
        """The network as it was before the backward pass; also called by what follows a failed one."""
        if self.task is not None:
            self.task = self.chosen = None
            self._point(self.current)


def is_watch(hook: Any) -> bool:
    """True for the hooks of :meth:`ModeHistory.watch`."""
    return isinstance(getattr(hook, "__self__", None), ModeHistory)


def unwatch(module: nn.Module) -> None:
    """Take such hooks off a module."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if is_watch(hook)]:
            del hooks[key]


def _current_node() -> int:
    node: Any = torch._C._current_autograd_node()
    return -1 if node is None else int(node._sequence_nr())


class Recomputable(nn.Module):
    """A layer that a checkpoint may compute again."""

    history: ModeHistory | None = None  # given by the network

    def recomputing(self) -> bool:
        """True, and the network in the mode of the forward pass, while a backward pass computes again."""
        if torch.compiler.is_compiling():  # a compiled graph holds its own recomputations
            return False
        return self.history is not None and self.history.enter()
