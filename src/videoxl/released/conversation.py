"""``conv_templates`` of the released package: a prompt as text, turn by turn."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from enum import Enum, auto

from videoxl.config import DEFAULT_SYSTEM_PROMPT
from videoxl.inference.prompt import IM_END, IM_START


class SeparatorStyle(Enum):
    """How turns are told apart. Models of this package know ``CHATML`` alone; scripts compare with the others."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    CHATML = auto()
    LLAMA_2 = auto()
    LLAMA_3 = auto()
    QWEN = auto()


@dataclass
class Conversation:
    """Turns of a conversation, which scripts append to: ``[[role, text], ...]``, None for the answer to come."""

    system: str = f"{IM_START}system\n{DEFAULT_SYSTEM_PROMPT}"
    roles: tuple[str, str] = (f"{IM_START}user", f"{IM_START}assistant")
    messages: list[list[str | None]] = field(default_factory=list)
    offset: int = 0
    sep_style: SeparatorStyle = SeparatorStyle.CHATML
    sep: str = IM_END
    sep2: str | None = None
    version: str = "qwen"

    def append_message(self, role: str, message: str | None) -> None:
        """Add a turn. ``role`` is one of ``roles``."""
        if role not in self.roles:
            raise ValueError(f"role must be one of {', '.join(map(repr, self.roles))}, got {role!r}")
        if message is not None and not isinstance(message, str):
            raise ValueError(f"a message must be text or None, got {type(message).__name__}")
        self.messages.append([role, message])

    def get_prompt(self) -> str:
        """The prompt as text, ``<image>`` wherever a message says so."""
        turns = [f"{role}\n{message}{self.sep}\n" if message else f"{role}\n" for role, message in self.messages]
        return "".join([f"{self.system}{self.sep}\n" if self.system else "", *turns])

    def copy(self) -> Conversation:
        """A conversation that can go on without changing this one."""
        return copy.deepcopy(self)


class ConversationTemplates(dict[str, Conversation]):
    """Name -> template. Says which there are when asked for another one."""

    def __missing__(self, name: str) -> Conversation:
        raise KeyError(f"no conversation template {name!r}: Video-XL models were trained with {', '.join(self)}")


conv_templates = ConversationTemplates(qwen_1_5=Conversation(), qwen_2=Conversation())
default_conversation = conv_templates["qwen_1_5"]

__all__ = ["Conversation", "SeparatorStyle", "conv_templates", "default_conversation"]
