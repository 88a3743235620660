"""What Numba and Keras do not document of the generators that they keep.

Numba: the state of each thread, that of ``numpy.random`` in compiled code and that of ``random``. It has functions that
read and write it, but for the normal that it holds back; so its memory is copied where that lies as is known.
Keras: the generator from which it draws where no seed is given, made when it is first asked for.

Public ways to do so in either library would replace this module.
"""

import ctypes
import importlib
import sys
from typing import Any

import numpy as np

__all__ = ["KerasGenerators", "NumbaStates"]

# What lies in a state of Numba's: the place in 624 words, these, and a normal held back, with whether there is one.
_STATE_BYTES = 2520
_WORDS = slice(4, 4 + 4 * 624)


class NumbaStates:
    """The two states of the thread that calls."""

    def seed(self, integer: int) -> None:
        """Put both on streams, from an integer of 63 bits."""
        for number, pointer in enumerate(self._pointers()):
            # as bytes it takes all of them; as an integer it would take 32 bits
            self._helpers.rnd_seed(pointer, integer.to_bytes(8, "little") + number.to_bytes(4, "little"))

    def save(self) -> tuple[Any, ...]:
        """Return both states."""
        if self._knows_memory():
            return tuple(ctypes.string_at(pointer, _STATE_BYTES) for pointer in self._pointers())
        return tuple(self._helpers.rnd_get_state(pointer) for pointer in self._pointers())

    def restore(self, states: tuple[Any, ...]) -> None:
        """Put both back."""
        for pointer, state in zip(self._pointers(), states, strict=True):
            if isinstance(state, bytes):
                ctypes.memmove(pointer, state, len(state))
            else:
                self._helpers.rnd_set_state(pointer, state)

    @property
    def _helpers(self) -> Any:
        return importlib.import_module("numba._helperlib")

    def _pointers(self) -> tuple[int, int]:
        return self._helpers.rnd_get_np_state_ptr(), self._helpers.rnd_get_py_state_ptr()

    def _knows_memory(self) -> bool:
        """Whether a state lies in memory as is known: the place, then the words."""
        pointer = self._pointers()[0]
        place, words = self._helpers.rnd_get_state(pointer)
        memory = ctypes.string_at(pointer, _STATE_BYTES)
        is_known: bool = int.from_bytes(memory[:4], "little") == place
        return is_known and np.array_equal(np.frombuffer(memory[_WORDS], np.uint32), np.array(words, np.uint32))


class KerasGenerators:
    """The generator from which Keras draws where no seed is given, and those of ``keras.random.SeedGenerator``."""

    _NAME = "global_seed_generator"

    @staticmethod
    def is_one(obj: object) -> bool:
        """Whether an object is a SeedGenerator."""
        keras = sys.modules.get("keras")
        return keras is not None and isinstance(obj, keras.random.SeedGenerator)

    @staticmethod
    def put(generator: Any, integer: int) -> None:
        """Put a SeedGenerator on a stream, from an integer of 63 bits."""
        # two numbers, of which the second counts the draws; they are signed where PyTorch computes
        generator.state.assign([integer & 0x7FFFFFFF, integer >> 32 & 0x3FFFFFFF])

    @staticmethod
    def state(generator: Any) -> tuple[int, ...]:
        """Return the state of a SeedGenerator."""
        value = generator.state.value
        # a tensor of PyTorch, which Keras would convert in a way that NumPy warns of
        value = value.detach().cpu() if hasattr(value, "detach") else value
        return tuple(int(number) for number in np.asarray(value))

    def seed(self, integer: int) -> None:
        """Put the one without a seed on a stream."""
        module = importlib.import_module("keras.src.random.seed_generator")
        self.put(module.global_seed_generator(), integer)

    def save(self) -> tuple[int, ...] | None:
        """Return its state, or None if nobody has drawn from it."""
        generator = self._attributes.get_global_attribute(self._NAME)
        return None if generator is None else self.state(generator)

    def restore(self, state: tuple[int, ...] | None) -> None:
        """Put it back."""
        if state is None:  # it is made again when it is first asked for
            self._attributes.set_global_attribute(self._NAME, None)
        else:
            self._attributes.get_global_attribute(self._NAME).state.assign(state)

    @property
    def _attributes(self) -> Any:
        return importlib.import_module("keras.src.backend.common.global_state")
