"""``videoxl.load(...)`` and what it returns: read a video once, ask it anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack, overload

import torch
from transformers import PreTrainedTokenizerBase

from videoxl.config import (
    BiLevelDecode,
    DecodeStrategy,
    Generation,
    KVDtype,
    PrefillStrategy,
    Sampling,
    check_kv_dtype,
)
from videoxl.config_keywords import ExtendKeywords, GenerationKeywords
from videoxl.cues import Track
from videoxl.inference.answers import Answer, Piece
from videoxl.inference.asking import DEFAULT_GENERATION, Asking, check_question, generation_of, generations_of
from videoxl.inference.chat import ChatSession, earlier_turns
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.decode.siglip import SiglipRelevance, from_memory, siglip_for, who_saw
from videoxl.inference.encode import FrameEmbedder, ReadContext, encode
from videoxl.inference.extend import extend
from videoxl.inference.keywords import AnswerKeywords
from videoxl.inference.kv_dtype import quantisations
from videoxl.inference.loading import LoadedModel, load_model, model_fingerprint, split_revision
from videoxl.inference.look_again import LookAgain, Looker, check_at_hand, choose_look, open_again, require_evidence
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.progress import Progress, as_progress
from videoxl.inference.prompt import ChatFormat
from videoxl.inference.request import open_request
from videoxl.inference.several import parts_of, read_before
from videoxl.inference.stored import check_stored
from videoxl.inference.trim import trim
from videoxl.inference.video_input import open_for_model
from videoxl.inference.written import Asked
from videoxl.memory.kv_cache import KVCache, Rope
from videoxl.memory.model_id import ModelId
from videoxl.memory.quantised import Quantisation
from videoxl.memory.types import MemoryState
from videoxl.memory.video_memory import Origin, VideoMemory
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video import VideoLimits


class VideoXL:
    """A model ready to read videos and to answer questions. Videos are kept in memories, not here."""

    def __init__(
        self,
        model: VideoXLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "model",
        revision: str | None = None,
    ) -> None:
        """``name``: what it was loaded by; ``revision``: the commit of the Hub, where it came from there."""
        self.model = model
        self.tokenizer = tokenizer
        self.name, self.revision = name, revision
        self.config = model.config
        self.fingerprint = model_fingerprint(model)
        self.chat_format = ChatFormat.of(tokenizer, self.config.traits)
        self._asking = Asking(model, tokenizer, self.chat_format)
        self.siglip: SiglipRelevance | None = None
        """Embeds frames and questions for ``relevance="siglip"``; loaded when it is first needed."""

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        return f"VideoXL({self.name}, {self.config.family}, {size / 1e6:,.1f} M weights, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where ids go in and logits come out."""
        return self.model.model.text_device

    @property
    def end_ids(self) -> list[int]:
        """Ids at which an answer ends."""
        return self._asking.end_ids

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    # -------------------------------------------------------------------------------------------------- reading

    def encode(
        self,
        video: Any = None,
        *,
        fps: float | None = None,
        max_fps: float | None = None,
        max_frames: int | None = None,
        num_frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        frames: Any = None,
        timestamps: Any = None,
        sampling: Sampling | None = None,
        prefill: PrefillStrategy | str | None = None,
        kv_dtype: str | None = None,
        system: str | None = None,
        before: Sequence[Mapping[str, Any]] = (),
        subtitles: Any = None,
        tracks: Sequence[Track | str] = (),
        siglip: bool | str | SiglipRelevance = False,
        stream: int | None = None,
        reader: str = "auto",
        limits: VideoLimits | None = None,
        strict: bool = False,
        progress: bool | Progress = False,
    ) -> VideoMemory:
        """Read a video once into a :class:`VideoMemory`.

        Args:
            video: a video file, a picture, a folder or list of pictures, an array or tensor ``[F, H, W, 3]`` or
                ``[F, 3, H, W]``, an iterator of (picture, seconds), or what :func:`videoxl.open_video` returned (which
                stays open, and has its own ``stream``, ``reader``, ``limits``, ``strict`` and ``timestamps``).
            fps, max_fps, max_frames, num_frames, start, end: see :class:`Sampling`. Default: one frame a second, at
                most 2,048. For pictures and arrays without ``timestamps``, ``fps`` is the rate they were taken at and
                all of them are read.
            frames: with ``video``, which frames to read: whole numbers are frame numbers, floats are seconds.
                Without ``video``, the pictures themselves.
            timestamps: seconds of every picture, for inputs that are not video files.
            sampling: all of the sampling settings as one value, instead of the above.
            prefill: a strategy or its name. Default: :class:`BeaconPrefill` for Video-XL, as its config says, and
                :class:`FullPrefill` for Video-XL-2, :class:`SelectivePrefill` for Video-XL-Pro.
            kv_dtype: ``int8`` or ``fp8`` holds keys and values in half of the memory, rounded per token and head, with
                slower answers; see ``docs/memory.md``. Default: as the model computes them.
            system: the system prompt in front of the video. Default: that of the model's family, if it has one.
            before: what stands between the system prompt and the video: text, and further videos and pictures, as chat
                content (``[{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Then:"}]``). For Qwen3-VL.
            subtitles: a subtitle file (``.srt``, ``.vtt``, ``.ass`` ...), a list of
                :class:`~videoxl.video.subtitles.Cue`, or ``auto``: the video's own subtitle track (``auto:3``: that of
                stream 3; ``auto:eng``: that in English). Each cue is read after the timestamp of the frames it begins
                in. Not for Video-XL, which has no timestamps.
            tracks: other words to read in the same way: :class:`~videoxl.cues.Track` values, or names: ``subtitles``
                (the video's own), ``speech`` (what is said, written down with the default model) and ``screen`` (what
                is written). The memory keeps them.
            siglip: also embed every frame with a SigLIP model, for questions with ``relevance="siglip"``: a folder, a
                Hub id, a :class:`SiglipRelevance`, or True for the one that the vision tower was taken from.
            stream: index of the video stream in a file that has several.
            reader: ``auto``, ``pyav`` or ``torchcodec``.
            limits: what a file may ask for before it is refused.
            strict: a video that can only be read in part is an error instead of a warning.
            progress: True draws a bar on stderr; a callable gets (phase, done, total).

        Raises:
            VideoError: the video cannot be used.
            DoesNotFitError: it would not fit into memory.
            ValueError: settings contradict each other.
        """
        strategy = choose_prefill(prefill, self.config)
        held = check_kv_dtype(kv_dtype, strategy)
        if video is None and frames is None:
            raise ValueError("no video given: pass a file, a folder, pictures, an array or an iterator")
        if video is None:
            video, frames = frames, None
        given = {"fps": fps, "max_fps": max_fps, "max_frames": max_frames, "num_frames": num_frames}
        given |= {"start": start, "end": end}
        options = {"stream": stream, "reader": reader, "strict": strict, "limits": limits or VideoLimits()}
        with open_for_model(video, fps=fps, timestamps=timestamps, **options) as source:
            request = open_request(
                source,
                given,
                self.config,
                strategy,
                frames=frames,
                sampling=sampling,
                system=system,
                subtitles=subtitles,
                tracks=tracks,
                progress=as_progress(progress),
                kv_dtype=held,
            )
            embedder = FrameEmbedder(siglip_for(self, siglip)) if siglip and not source.is_still else None
            parts = parts_of(before)
            behind = read_before(self._read_context, system, parts) if parts else None
            made = VideoMemory(encode(self._read_context, request, as_progress(progress), embedder, behind), self)
            read_as = {"system": system, "kv_dtype": held, "siglip": siglip}
            can_reopen = isinstance(video, str | os.PathLike) and not source.is_still and not parts
            made.origin = Origin(video if can_reopen else None, options, read_as)
            return made

    def extend(self, memory: VideoMemory, video: Any, **settings: Unpack[ExtendKeywords]) -> None:
        """See :meth:`VideoMemory.extend`."""
        self._check(memory, "-")
        memory.extend(video, **settings)

    def trim(self, memory: VideoMemory, *, start: float | None = None, end: float | None = None) -> None:
        """See :meth:`VideoMemory.trim`."""
        self._check(memory, "-")
        memory.trim(start=start, end=end)

    def extended(
        self,
        state: MemoryState,
        video: Any,
        *,
        committed_cache: Callable[[], KVCache],
        **settings: Unpack[ExtendKeywords],
    ) -> MemoryState:
        """Return the state of a memory with ``video`` read in addition; see :func:`videoxl.inference.extend.extend`."""
        self._check_made_by_this(state.model_fingerprint)
        siglip = who_saw(self, state.embeddings) if state.embeddings else None
        return extend(self._read_context, state, video, committed_cache=committed_cache, siglip=siglip, **settings)

    def trimmed(self, state: MemoryState, *, start: float | None, end: float | None) -> MemoryState:
        """Return the state of a memory without some groups; see :func:`videoxl.inference.trim.trim`."""
        self._check_made_by_this(state.model_fingerprint)
        return trim(self._read_context, state, start=start, end=end)

    def check_stored(self, state: MemoryState) -> None:
        """Raise ``ValueError`` for a state that this model never makes; see :mod:`videoxl.inference.stored`."""
        check_stored(self.config, state)

    @property
    def _read_context(self) -> ReadContext:
        return ReadContext(self.model, self.chat_format, self.fingerprint)

    def quantisations(self, kv_dtype: KVDtype) -> Sequence[Quantisation]:
        """How each layer packs keys and values."""
        return quantisations(self.model.model.language_model, kv_dtype)

    @property
    def rope(self) -> Rope:
        """What puts positions into keys and takes them out: the language model."""
        return self.model.model.language_model

    @property
    def model_id(self) -> ModelId:
        """Identify the model in a memory file; a folder by its own name only."""
        text: Any = self.config.text_config
        return ModelId(
            name=os.path.basename(os.path.normpath(self.name)) if os.path.isdir(self.name) else self.name,
            family=self.config.family,
            dtype=self.dtype,
            fingerprint=self.fingerprint,
            layers=text.num_hidden_layers,
            heads=text.num_key_value_heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            video_token_id=self.config.video_token_id,
            two_levels=self.config.traits.two_levels,
            revision=self.revision,
        )

    @property
    def layer_devices(self) -> list[torch.device]:
        """Device of each layer of the language model."""
        return [layer.device for layer in self.model.model.language_model.decoder_layers]

    # --------------------------------------------------------------------------------------------------- asking

    @overload
    def ask(
        self,
        memory: VideoMemory,
        question: str,
        *,
        decode: DecodeStrategy | str | None = None,
        generation: Generation | None = None,
        progress: bool | Progress = False,
        look_again: bool | LookAgain = False,
        video: Any = None,
        **settings: Unpack[GenerationKeywords],
    ) -> Answer: ...
    @overload
    def ask(
        self,
        memory: VideoMemory,
        question: list[str] | tuple[str, ...],
        *,
        decode: DecodeStrategy | str | None = None,
        generation: Generation | Sequence[Generation] | None = None,
        progress: bool | Progress = False,
        together: bool = True,
        look_again: bool | LookAgain = False,
        video: Any = None,
        **settings: Unpack[GenerationKeywords],
    ) -> list[Answer]: ...
    def ask(
        self,
        memory: VideoMemory,
        question: str | list[str] | tuple[str, ...],
        *,
        decode: DecodeStrategy | str | None = None,
        generation: Generation | Sequence[Generation] | None = None,
        progress: bool | Progress = False,
        together: bool = True,
        look_again: bool | LookAgain = False,
        video: Any = None,
        **settings: Unpack[GenerationKeywords],
    ) -> Answer | list[Answer]:
        """Answer a question about a memory, or several independent ones; the memory stays as it was.

        Several questions are answered together: a step reads the weights once for all of them. Sums are then rounded
        in another order than for one question alone, so an answer can differ where two tokens are as good as equally
        likely. ``together=False`` answers one after the other, bit for bit as alone.

        ``progress`` gets ("generate", tokens, most). ``settings`` are those of :class:`Generation`
        (``max_new_tokens=128``, ``do_sample=True`` ...); a seed holds for each question. ``generation`` is one for all,
        or a list with one for each question, which may have options of its own.

        ``look_again`` reads the stretch that an answer looked at most once more, at a higher rate, and answers once
        more; ``answer.first`` is what was answered before. It needs the video: that which the memory was encoded from,
        if it was a file, or ``video``, which may be a path or what :func:`videoxl.open_video` returned.

        Raises ``ValueError`` for an empty question, contradictory settings, or something that is not a memory.
        """
        strategy = choose_decode(decode, self.config)
        questions: Sequence[str] = [question] if isinstance(question, str) else question
        if not isinstance(questions, list | tuple) or not questions:
            check_question(question)  # says what is wrong with it
        each = generations_of(generation, settings, len(questions))
        for one in questions:
            self._check(memory, one)
        if (look := choose_look(look_again)) is not None:
            require_evidence(each)
            check_at_hand(memory, video)
        memory = memory.fork()  # a snapshot: the memory may be extended in another thread meanwhile
        asked = [self._asked(memory, one, how, strategy) for one, how in zip(questions, each)]
        told = as_progress(progress)
        alone = len(asked) == 1 and each[0].n == 1
        answers = self._asking.answers(asked, together=together and not alone, progress=told)
        if look is not None:
            answers = self._looked_again(memory, video, list(zip(questions, each, answers)), look, strategy, told)
        return answers[0] if isinstance(question, str) else answers

    def _looked_again(
        self,
        memory: VideoMemory,
        video: object,
        answered: list[tuple[str, Generation, Answer]],
        look: LookAgain,
        decode: DecodeStrategy,
        progress: Progress,
    ) -> list[Answer]:
        """The answers after a second look, in order."""

        def again(part: VideoMemory, question: str, generation: Generation) -> Answer:
            return self.ask(part, question, decode=decode, generation=generation)

        with open_again(memory, video) as source:
            looker = Looker(self.config, self.encode, again, memory, source, look, progress)
            return [looker.again(question, generation, first) for question, generation, first in answered]

    def stream(
        self,
        memory: VideoMemory,
        question: str,
        *,
        decode: DecodeStrategy | str | None = None,
        generation: Generation | None = None,
        history: Sequence[tuple[str, str]] = (),
        **settings: Unpack[GenerationKeywords],
    ) -> Iterator[Piece]:
        """Like :meth:`ask`, piece by piece; the last piece carries the whole :class:`Answer`.

        ``history`` holds the (question, answer) pairs of a conversation before it. Arguments are checked at the call,
        not at the first piece. Leaving the loop early stops the generation.
        """
        chosen, strategy = generation_of(generation, settings), choose_decode(decode, self.config)
        if chosen.num_beams > 1:
            raise ValueError(f"num_beams={chosen.num_beams} cannot be streamed: beams are compared at the end")
        if chosen.n > 1:
            raise ValueError(f"n={chosen.n} cannot be streamed: several answers are written at once; use ask")
        self._check(memory, question)
        memory = memory.fork()  # a snapshot: the memory may be extended in another thread meanwhile
        asked = self._asked(memory, question, chosen, strategy, history)
        return self._asking.pieces(asked, self._asking.start(asked))

    def _asked(
        self,
        memory: VideoMemory,
        question: str,
        generation: Generation,
        decode: DecodeStrategy,
        history: Sequence[tuple[str, str]] = (),
    ) -> Asked:
        earlier = earlier_turns(self.chat_format, history)
        return self._asking.asked(memory, question, generation, from_memory(self, memory, decode), earlier=earlier)

    def _check(self, memory: Any, question: Any) -> None:
        if not isinstance(memory, VideoMemory):
            raise ValueError(
                f"a question needs a video: the first argument must be the VideoMemory that encode() returned, "
                f"got {type(memory).__name__}"
            )
        self._check_made_by_this(memory.model_fingerprint)
        check_question(question)

    def _check_made_by_this(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"this memory was made by another model ({fingerprint[:12]}, this is {self.fingerprint[:12]}): encode "
                "the video again"
            )

    # ------------------------------------------------------------------------------------------- in one call, chat

    def answer(
        self,
        video: Any,
        question: str,
        *,
        decode: DecodeStrategy | str | None = None,
        generation: Generation | None = None,
        encode: dict[str, Any] | None = None,
        look_again: bool | LookAgain = False,
        **settings: Unpack[AnswerKeywords],
    ) -> Answer:
        """``encode`` and ``ask`` in one call. Keywords of :meth:`encode` and of :class:`Generation` may be mixed.

        Video-XL-Pro reads with the question in mind: what it keeps of the video is judged by its words.
        """
        check_question(question)
        reads = {name: value for name, value in settings.items() if name in ENCODE_KEYWORDS}
        writes: Any = {name: value for name, value in settings.items() if name not in ENCODE_KEYWORDS}
        encode_settings = {**(encode or {}), **reads}
        chosen = generation_of(generation, writes)
        reading = choose_decode(decode, self.config)  # a wrong setting must not cost an encoding
        strategy = choose_prefill(encode_settings.get("prefill"), self.config)
        if isinstance(reading, BiLevelDecode) and "siglip" in reading.judges:
            encode_settings.setdefault("siglip", True)
        memory = self.encode(video, **{**encode_settings, "prefill": for_question(strategy, question)})
        given = video if look_again and memory.origin and memory.origin.video is None else None
        answer: Answer = self.ask(
            memory, question, decode=reading, generation=chosen, look_again=look_again, video=given
        )
        return answer

    def continue_conversation(
        self,
        memory: VideoMemory,
        history: list[tuple[str, str]],
        question: str,
        generation: Generation,
        decode: DecodeStrategy | str | None = None,
        progress: bool | Progress = False,
    ) -> Answer:
        """The next answer of a conversation given as text: ``history`` holds (question, answer) pairs."""
        strategy = choose_decode(decode, self.config)
        self._check(memory, question)
        memory = memory.fork()
        asked = self._asked(memory, question, generation, strategy, history)
        return self._asking.answers([asked], together=generation.n > 1, progress=as_progress(progress))[0]

    def prompt_of_conversation(
        self,
        memory: VideoMemory,
        history: list[tuple[str, str]],
        question: str,
        decode: DecodeStrategy | str | None = None,
    ) -> tuple[list[int], KVCache]:
        """What :meth:`continue_conversation` answers from: all ids, and a cache of the first of them."""
        strategy = choose_decode(decode, self.config)
        self._check(memory, question)
        asked = self._asked(memory.fork(), question, DEFAULT_GENERATION, strategy, history)
        start = self._asking.start(asked)
        return [*start.ids, *asked.prompt], start.cache.fork()

    def chat_session(self, memory: VideoMemory, *, decode: DecodeStrategy | str | None = None) -> ChatSession:
        """A conversation about one memory in which each turn sees those before it."""
        self._check(memory, "-")
        memory = memory.fork()  # extending or trimming it does not change a conversation
        strategy = from_memory(self, memory, choose_decode(decode, self.config))
        return ChatSession(self._asking, memory, strategy)


ENCODE_KEYWORDS = frozenset(VideoXL.encode.__kwdefaults__ or {})


def load(
    name: str,
    *,
    device: Any = "auto",
    dtype: str | torch.dtype = "auto",
    attention: str = "auto",
    quantization: Any = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> VideoXL:
    """Load a model by Hub id, by folder (released or our layout), or by the name of an embedded one.

    Args:
        name: a Hub id such as ``"BAAI/Video-XL-2"`` or ``"Qwen/Qwen3-VL-8B-Instruct"``, a folder, or ``"tiny"``,
            ``"tiny-v1"`` or ``"tiny-qwen3"``: a Video-XL-2, a Video-XL and a Qwen3-VL that the package brings along,
            very small, trained on :mod:`videoxl.world` alone.
        device: ``auto`` (a GPU if there is one), a torch device, or an accelerate ``device_map``.
        dtype: ``auto`` (the checkpoint's on a GPU, float32 on a CPU if it fits), or a torch dtype or its name.
        attention: ``auto`` (sdpa) or any ``attn_implementation`` of transformers.
        quantization: ``None``, ``"int8"`` or ``"nf4"`` (bitsandbytes, vision parts left alone), or a transformers
            quantisation config, handed through.
        revision: with a Hub id, the commit, branch or tag to load; ``"owner/name@revision"`` says the same.
        local_files_only: with a Hub id, load from the local cache and fetch nothing.

    No code that comes with a model is run, and its weights are read from safetensors files only.

    Raises:
        CheckpointError: the folder is incomplete, damaged, or of an unknown family.
    """
    loaded: LoadedModel = load_model(
        name,
        device=device,
        dtype=dtype,
        attention=attention,
        quantization=quantization,
        revision=revision,
        local_files_only=local_files_only,
    )
    plain = name if os.path.isdir(name) else split_revision(name)[0]
    return VideoXL(loaded.model, loaded.tokenizer, name=plain, revision=loaded.revision)
