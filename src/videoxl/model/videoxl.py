"""The model: vision tower, token synthesis, projector, language model (SPEC 2, 3).

Vision towers are transformers' own, the language model is :mod:`videoxl.model.decoder`. Released checkpoints load
through the renames of :mod:`videoxl.model.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import AutoModel, DynamicCache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from videoxl.model.attention import TokenCache, Watch
from videoxl.model.beacon import GradientCache, make_loop, visual_range, window_loss, window_steps
from videoxl.model.block_attention import sequence_numbers
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.decoder import LanguageModel
from videoxl.model.generation import CACHE, PICTURE_INPUTS, check_ids, generate, one_cache
from videoxl.model.pretrained import VideoXLPreTrainedModel
from videoxl.model.projector import Projector, pool_grid
from videoxl.model.token_loss import IGNORED, next_token_losses
from videoxl.model.token_scores import TokenScores
from videoxl.model.token_synthesis import TokenSynthesis, regroup
from videoxl.model.upload import to_device
from videoxl.model.vision import merged_tokens, normalize_pixels, patch_features, resize_grid
from videoxl.model.windows import RatioChooser


class VideoXLModel(VideoXLPreTrainedModel):
    """Pixels and text in, last hidden states out."""

    _keys_to_ignore_on_load_unexpected: tuple[str, ...] = (
        *VideoXLPreTrainedModel._keys_to_ignore_on_load_unexpected,
        r"^lm_head\.",
    )

    def __init__(self, config: VideoXLConfig) -> None:
        super().__init__(config)
        vision, text = cast(Any, config.vision_config), cast(Any, config.text_config)
        self.vision_tower = AutoModel.from_config(vision)
        if config.traits.token_synthesis:
            self.token_synthesis = TokenSynthesis(
                vision.hidden_size,
                frames_per_group=config.frames_per_group,
                norm_groups=config.synthesis_norm_groups,
                max_distance=config.synthesis_max_distance,
            )
        if not config.traits.vision.any_size:
            self.multi_modal_projector = Projector(vision.hidden_size, text.hidden_size)
        if config.traits.token_scores:
            self.token_scores = TokenScores(text.hidden_size)
        self.language_model = LanguageModel(text, config.beacon_param)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @property
    def text_device(self) -> torch.device:
        """Where ids go in."""
        return cast(torch.Tensor, self.get_input_embeddings().weight).device

    @property
    def num_text_layers(self) -> int:
        return int(cast(Any, self.config.text_config).num_hidden_layers)

    @property
    def _patch_weight(self) -> torch.Tensor:
        """Never quantised, unlike linear layers."""
        return cast(nn.Module, self.vision_tower).get_parameter(self.config.traits.vision.patches_at)

    @property
    def vision_device(self) -> torch.device:
        """Where pictures go in."""
        return self._patch_weight.device

    @property
    def vision_dtype(self) -> torch.dtype:
        return self._patch_weight.dtype

    def synthesize(self, features_FPC: torch.Tensor) -> torch.Tensor:
        """Token synthesis of whole groups: ``[F, token_grid^2, C] -> [F / frames_per_group, token_grid^2, C]``.

        Video-XL has none: its frames stay as they are.
        """
        if not self.config.traits.token_synthesis:
            return features_FPC
        side = self.config.token_grid
        out: torch.Tensor = self.token_synthesis(regroup(features_FPC, self.config.frames_per_group), (side, side))
        return out

    def grid_features(self, pixels_FCHW: torch.Tensor) -> torch.Tensor:
        """Vision tower and resampling: ``[F, 3, H, W] -> [F, token_grid^2, C]``."""
        features = patch_features(self.vision_tower, pixels_FCHW, self.config.vision_select_layer)
        return resize_grid(features, self.config.token_grid)

    def encode_frames(self, pixels_FCHW: torch.Tensor) -> torch.Tensor:
        """Video frames to visual tokens: ``[F, 3, H, W] -> [ceil(F / T), tokens_per_group, D]``.

        A last group that is not full repeats the features of its last frame (SPEC 3.2.2). Where the tower also makes
        what is added behind layers, that stands behind the ``D`` numbers of a token (:func:`merged_tokens`).
        """
        if self.config.traits.vision.any_size:
            return merged_tokens(self.vision_tower, pixels_FCHW, self.config.frames_per_group)
        return self.encode_features(self.grid_features(pixels_FCHW))

    def encode_features(self, features: torch.Tensor) -> torch.Tensor:
        """:meth:`encode_frames` from the features of the vision tower on, ``[F, token_grid^2, C]``."""
        missing = -features.shape[0] % self.config.frames_per_group
        if missing:
            features = torch.cat([features, features[-1:].expand(missing, -1, -1)])
        return self.multi_modal_projector.project_and_pool(
            self.synthesize(features), self.config.token_grid, self.config.pool_stride, self._pool_mode
        )

    def encode_image(self, crops_NCHW: torch.Tensor) -> torch.Tensor:
        """One still image given as crops, the whole picture first: ``[N, 3, H, W] -> [P, D]`` (SPEC 3.2).

        Every crop fills a group. ``unires``: a lone crop keeps all tokens; of several the first is dropped after
        encoding and the others are averaged 2x2. ``flat``: all tokens of all crops.
        """
        if self.config.traits.vision.any_size:
            return self.encode_frames(crops_NCHW).flatten(0, 1)
        features = self.grid_features(crops_NCHW).repeat_interleave(self.config.frames_per_group, dim=0)
        tokens_NPD = self.multi_modal_projector(self.synthesize(features))
        if self.config.patch_merge_type == "unires" and len(tokens_NPD) > 1:
            tokens_NPD = pool_grid(tokens_NPD[1:], self.config.token_grid, 2, "average")
        out: torch.Tensor = tokens_NPD.flatten(0, 1)
        return out

    @property
    def _pool_mode(self) -> Literal["average", "max"]:
        return cast(Literal["average", "max"], self.config.pool_mode)

    def _batched_frames(self, frames: torch.Tensor, groups: int) -> Iterator[torch.Tensor]:
        """Visual tokens of a video's pixels or features, a few groups at a time."""
        encode = self.encode_frames if frames.ndim == 4 else self.encode_features
        for batch in frames.split(groups * self.config.frames_per_group):
            yield encode(self.normalized(batch))

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels as the tower takes them. uint8 ``[N, H, W, 3]`` are normalised here: fewer bytes to move."""
        if pixels.dtype != torch.uint8:
            return pixels.to(self.dtype)
        return normalize_pixels(pixels, self.config.image_mean, self.config.image_std, self.dtype)

    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        frames_per_video: torch.Tensor | None = None,
        vision_batch: int = 24,
        video_features: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Visual tokens of each video: a list of ``[groups, tokens_per_group, D]``.

        ``pixel_values_videos``: ``[videos, F, 3, H, W]``, or ``[sum of frames, 3, H, W]`` with ``frames_per_video``;
        uint8 pixels that are not normalised have their colours last.
        ``video_features`` instead: what :meth:`grid_features` gives for them, ``[sum of frames, token_grid^2, C]``.
        ``vision_batch`` is the number of groups encoded at once; it bounds memory and does not change the result.
        """
        if (pixel_values_videos is None) == (video_features is None):
            raise ValueError("give exactly one of pixel_values_videos and video_features")
        frames = cast(torch.Tensor, pixel_values_videos if video_features is None else video_features)
        if frames.ndim == 5:
            videos = list(frames)
        elif frames_per_video is not None:
            videos = list(frames.split(frames_per_video.tolist()))
        else:
            raise ValueError(
                f"pixel_values_videos or video_features of shape {tuple(frames.shape)} holds the frames of all videos "
                "in a row: frames_per_video must say how many belong to each"
            )
        return [torch.cat(list(self._batched_frames(video, vision_batch))) for video in videos]

    def get_image_features(
        self, pixel_values: torch.Tensor, crops_per_image: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Visual tokens of each still image: a list of ``[P, D]``. ``pixel_values``: ``[sum of crops, 3, H, W]``."""
        counts = [len(pixel_values)] if crops_per_image is None else crops_per_image.tolist()
        return [self.encode_image(self.normalized(crops)) for crops in pixel_values.split(counts)]

    def _place(
        self, embeds_BLD: torch.Tensor, input_ids: torch.Tensor, token_id: int, tokens_PD: torch.Tensor, what: str
    ) -> torch.Tensor:
        """Write visual tokens over their placeholders, in order."""
        mask_BL = input_ids == token_id
        require_as_many(int(mask_BL.sum()), len(tokens_PD), token_id, what)
        tokens = tokens_PD.to(embeds_BLD.device, embeds_BLD.dtype)
        return embeds_BLD.masked_scatter(mask_BL.unsqueeze(-1), tokens)

    def place_video(self, embeds_BLD: torch.Tensor, input_ids: torch.Tensor, tokens_PD: torch.Tensor) -> torch.Tensor:
        """Write the visual tokens of videos over the placeholders in ``input_ids`` ``[B, L]``, in order."""
        return self._place(embeds_BLD, input_ids, self.config.video_token_id, tokens_PD, "videos")

    def embed_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings ``[B, L, D]``. Placeholders beyond the table get some row, which visual tokens replace.

        Ids on the host are checked there; those on a GPU make the host wait. Raises ``ValueError`` for other ids that
        the table does not have.
        """
        placeholder = (input_ids == self.config.video_token_id) | (input_ids == self.config.image_token_id)
        within = input_ids.masked_fill(placeholder & (input_ids >= self.vocabulary_rows), 0)
        if within.numel() and not torch.compiler.is_compiling():  # a graph cannot look; its lookup fails instead
            check_ids((int(within.min()), int(within.max())), self.vocabulary_rows)
        embeds: torch.Tensor = self.get_input_embeddings()(to_device(within, self.text_device))
        return embeds

    @property
    def vocabulary_rows(self) -> int:
        """Rows of the embedding table; the ids of placeholders may lie beyond."""
        return len(cast(torch.Tensor, self.get_input_embeddings().weight))

    def embed_span(self, ids: Sequence[int], tokens_PD: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[1, L, D]`` of ids with the visual tokens in the places of their placeholders."""
        return self.embed_span_in_layers(ids, tokens_PD)[0]

    def embed_span_in_layers(
        self, ids: Sequence[int], tokens_PD: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Embeddings ``[1, L, D]``, and what is added behind the first layers, ``[1, L, D]`` each (deepstack)."""
        host_ids = torch.tensor(list(ids), dtype=torch.long)
        visual = (host_ids == self.config.video_token_id) | (host_ids == self.config.image_token_id)
        places = visual.nonzero().squeeze(1)  # known on the host: nothing waits
        require_as_many(len(places), len(tokens_PD), self.config.video_token_id, "videos")
        embeds_BLD = self.embed_ids(host_ids[None])
        tokens = tokens_PD.to(embeds_BLD.device, embeds_BLD.dtype)
        at = to_device(places, embeds_BLD.device)
        first, *added = cast(Sequence[torch.Tensor], tokens.split(embeds_BLD.shape[-1], dim=1))
        embeds_BLD = embeds_BLD.index_copy(1, at, first[None])
        return embeds_BLD, tuple(torch.zeros_like(embeds_BLD).index_copy(1, at, part[None]) for part in added)

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values_videos: torch.Tensor | None = None,
        frames_per_video: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        crops_per_image: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        *,
        continued: bool = False,
    ) -> torch.Tensor:
        """Text embeddings ``[B, L, D]`` with visual tokens in the places of their ids.

        ``continued``: the ids go on behind a cache. A placeholder among them may have been generated, and shows
        nothing. Anywhere else, placeholders without their pictures raise ``ValueError``.
        """
        config = self.config
        given = (pixel_values_videos, pixel_values, video_features)
        if config.traits.vision.any_size and any(pictures is not None for pictures in given):
            raise ValueError(
                f"pictures of {config.family} are read by the engine that videoxl.load() returns; transformers' own "
                "class of the same folder takes what its processor makes"
            )
        embeds = self.embed_ids(input_ids)
        videos = pixel_values_videos is not None or video_features is not None
        if pixel_values is not None and videos and config.image_token_id == config.video_token_id:
            raise ValueError("this model has one placeholder id for both: give images or videos in a prompt, not both")
        if videos:
            seen = self.get_video_features(pixel_values_videos, frames_per_video, video_features=video_features)
            embeds = self.place_video(embeds, input_ids, torch.cat([tokens.flatten(0, 1) for tokens in seen]))
        if pixel_values is not None:
            tokens = torch.cat(self.get_image_features(pixel_values, crops_per_image))
            embeds = self._place(embeds, input_ids, config.image_token_id, tokens, "images")
        if not continued:
            shown = {config.video_token_id: videos, config.image_token_id: pixel_values is not None}
            if config.image_token_id == config.video_token_id:
                shown = {config.video_token_id: videos or pixel_values is not None}
            _require_pictures(input_ids, [token_id for token_id, given in shown.items() if not given])
        out: torch.Tensor = embeds
        return out

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        frames_per_video: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        crops_per_image: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: TokenCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        video_features: torch.Tensor | None = None,
        cache: TokenCache | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        visual_blocks: torch.Tensor | None = None,
        previous_blocks: torch.Tensor | int = 0,
        **unknown: object,
    ) -> BaseModelOutputWithPast:
        """``input_ids`` ``[B, L]`` or ``inputs_embeds`` ``[B, L, D]`` -> ``last_hidden_state`` ``[B, L, D]``.

        ``cache`` is the newer name of ``past_key_values``; without one and with ``use_cache`` a cache is made.
        ``visual_blocks``, ``previous_blocks``: see :meth:`LanguageModel.forward`.
        """
        refuse_unknown(unknown)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        held = one_cache(cache, past_key_values)
        pictures = (pixel_values_videos, frames_per_video, pixel_values, crops_per_image, video_features)
        if self.config.has_beacons and inputs_embeds is None and any(given is not None for given in pictures):
            raise ValueError("Video-XL reads pictures window by window: call VideoXLForConditionalGeneration itself")
        if inputs_embeds is None:
            continued = held is not None and held.get_seq_length() > 0
            inputs_embeds = self.embed(cast(torch.Tensor, input_ids), *pictures, continued=continued)
        elif any(given is not None for given in pictures):
            raise ValueError("pictures are placed by their ids: give input_ids with them, not inputs_embeds")
        if held is None and use_cache:
            held = DynamicCache()
        out = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=held,
            use_cache=use_cache,
            output_hidden_states=bool(output_hidden_states),
            visual_blocks=visual_blocks,
            previous_blocks=previous_blocks,
        )
        found = {"last_hidden_state": out.last_hidden_state, CACHE: out.cache, "hidden_states": out.hidden_states}
        output = BaseModelOutputWithPast(**found)
        return output.to_tuple() if return_dict is False else output


def require_as_many(places: int, tokens: int, token_id: int, what: str) -> None:
    """Raise ``ValueError`` unless there are as many placeholders as visual tokens."""
    if places != tokens:
        raise ValueError(
            f"the prompt has {places} placeholders (id {token_id}) for {tokens} visual tokens of the {what}: build it "
            "with the processor, or give as many placeholders as there are tokens"
        )


def _require_pictures(input_ids: torch.Tensor, token_ids: Sequence[int]) -> None:
    """Raise ``ValueError`` if one of ``token_ids`` stands in a prompt: placeholders of pictures that were not given."""
    for token_id in token_ids:
        if found := int((input_ids == token_id).sum()):
            raise ValueError(
                f"the prompt has {found} placeholders (id {token_id}) without pictures: give pixel_values_videos and "
                "frames_per_video (videos), pixel_values and crops_per_image (images), as the processor and "
                "videoxl.hf.collator.VideoXLDataCollator make them"
            )


def refuse_unknown(given: Mapping[str, object]) -> None:
    """Raise ``ValueError`` for arguments that nothing here reads. ``output_attentions`` is read only when true."""
    names = [name for name, value in given.items() if value is not None and value is not False]
    if names:
        raise ValueError(
            f"the model does not know {', '.join(names)}: leave it out (attention weights are not returned; plans of "
            "videoxl.model.attention see them)"
        )


@dataclass
class VideoXLOutput(CausalLMOutputWithPast):
    """``logits`` ``[B, L or fewer, V]``, ``loss`` when labels were given, and the cache."""

    row_losses: torch.Tensor | None = None
    """With labels: the sum of every row's losses ``[B]``, without gradient; of every sequence's, where rows hold
    several."""


class VideoXLForConditionalGeneration(VideoXLPreTrainedModel, GenerationMixin):
    """Video-XL with its language-model head; what ``AutoModelForImageTextToText`` returns."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: VideoXLConfig) -> None:
        super().__init__(config)
        self.model = VideoXLModel(config)
        text = cast(Any, config.text_config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        frames_per_video: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        crops_per_image: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: TokenCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        video_features: torch.Tensor | None = None,
        cache: TokenCache | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        ratios: RatioChooser | None = None,
        visual_blocks: torch.Tensor | None = None,
        previous_blocks: torch.Tensor | int = 0,
        **unknown: object,
    ) -> VideoXLOutput:
        """Logits of the last ``logits_to_keep`` positions (0: all); with ``labels`` also the next-token loss.

        ``labels`` ``[B, L]``, -100 where no loss is wanted; they align with ``input_ids`` and are shifted here. The
        loss needs logits where labels are, and no others: training gives ``logits_to_keep=1``.
        ``video_features`` replace ``pixel_values_videos`` where the vision tower's work is already done
        (:meth:`VideoXLModel.get_video_features`). With a Video-XL model, pictures are compressed window by window
        (:meth:`forward_windows`, which reads ``ratios``).
        """
        refuse_unknown(unknown)
        held = one_cache(cache, past_key_values)
        pictures = any(given is not None for given in (pixel_values_videos, pixel_values, video_features))
        if self.config.has_beacons and pictures and input_ids is not None:
            embeds = self.model.embed(
                input_ids, pixel_values_videos, frames_per_video, pixel_values, crops_per_image, video_features
            )
            output = self.forward_windows(
                input_ids, embeds, attention_mask, labels, held, ratios=ratios, num_items_in_batch=num_items_in_batch
            )
            return output.to_tuple() if return_dict is False else output
        outputs = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            frames_per_video=frames_per_video,
            pixel_values=pixel_values,
            crops_per_image=crops_per_image,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=held,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            video_features=video_features,
            output_hidden_states=output_hidden_states,
            visual_blocks=visual_blocks,
            previous_blocks=previous_blocks,
        )
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        hidden = outputs.last_hidden_state
        logits = self.lm_head(hidden if isinstance(rows, int) else hidden[:, rows])
        loss, rows_lost = None, None
        if labels is not None:  # from the logits where all are wanted anyway
            whole = logits.shape[1] == hidden.shape[1]
            head, states = (nn.Identity(), logits) if whole else (self.lm_head, hidden)
            packed = visual_blocks is not None and position_ids is not None and position_ids.ndim == 2
            numbers = sequence_numbers(cast(torch.Tensor, position_ids)) if packed else None
            loss, rows_lost = next_token_losses(head, states, labels, num_items_in_batch, numbers)
        found = {"loss": loss, "logits": logits, CACHE: outputs.get(CACHE)}
        output = VideoXLOutput(**found, hidden_states=outputs.hidden_states, row_losses=rows_lost)
        return output.to_tuple() if return_dict is False else output

    def next_logits(self, input_ids: torch.Tensor, cache: TokenCache, watch: Watch | None = None) -> torch.Tensor:
        """Feed text ``[B, L]`` behind what ``cache`` holds; logits ``[B, V]`` of the token that follows.

        They are where the ids are, also where the head is on another GPU. ``watch`` is shown the queries of every
        layer.
        """
        embeds = self.get_input_embeddings()(input_ids)
        out = self.model.language_model(inputs_embeds=embeds, past_key_values=cache, watch=watch)
        return cast(torch.Tensor, self.lm_head(out.last_hidden_state[:, -1]).to(input_ids.device))

    def forward_windows(
        self,
        input_ids: torch.Tensor,
        embeds_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cache: TokenCache | None = None,
        *,
        ratios: RatioChooser | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> VideoXLOutput:
        """Video-XL's window loop over whole prompts, row by row (SPEC 2.3, 2.7).

        Args:
            labels: ``[B, L]`` as in :meth:`forward`; the loss is the mean over live labels of all rows, or their sum
                over ``num_items_in_batch``. Gradients reach through the cache.
            cache: an empty one, filled with prefix, beacons and text; for one row only. It grows differently from the
                prompt, so what comes next must be fed with the cache's own length, as :meth:`generate` does.
            ratios: of the windows; default the config's, the random mixes seeded anew at every call.

        Returns ``logits`` ``[B, 1, V]`` of the last position.
        """
        if cache is not None and len(input_ids) > 1:
            raise ValueError(f"a cache holds one prompt, got {len(input_ids)}")
        total, live, last = embeds_BLD.new_zeros((), dtype=torch.float32), 0, []
        rows_lost: list[torch.Tensor] = []
        for row in range(len(input_ids)):
            kept = slice(None) if attention_mask is None else attention_mask[row].bool()
            ids, embeds = input_ids[row][kept], embeds_BLD[row : row + 1][:, kept]
            visual = visual_range(ids, self.config.video_token_id)
            loop = make_loop(self.config, visual, ratios=ratios, training=self.training)
            held = GradientCache()
            steps = window_steps(self.model.language_model, held, loop, embeds)
            row_labels = torch.full_like(ids, IGNORED) if labels is None else labels[row][kept]
            loss, count, hidden = window_loss(self.lm_head, steps, row_labels)
            total, live = total + loss, live + count
            rows_lost.append(loss.detach())
            last.append(self.lm_head(hidden))
            if cache is not None:
                for number, (keys, values) in enumerate(held.layers):
                    cache.update(keys, values, number)
        mean = None if labels is None else total / (num_items_in_batch if num_items_in_batch else max(live, 1))
        lost = None if labels is None else torch.stack(rows_lost)
        found: dict[str, Any] = {"loss": mean, "logits": torch.cat(last), CACHE: cache, "row_losses": lost}
        return VideoXLOutput(**found)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """As in transformers. Pictures are read once, before beams and sequences part; Video-XL compresses them as its
        config says. What is returned begins with the ids that were given."""
        return generate(self, inputs, kwargs)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers. The pictures are left out once a cache holds them; without one, every step needs them."""
        for name in ("tokenizer", "assistant_tokenizer"):  # which generate() passes on with stop_strings
            kwargs.pop(name, None)
        cache, first = kwargs.get(CACHE), kwargs.get("is_first_iteration")
        seen = cache.get_seq_length() if cache is not None else 0
        if first and not args and kwargs.get("next_sequence_length") is None and 0 < seen < input_ids.shape[1]:
            # generate() slices for a filled cache itself, assisted decoding does not
            kwargs["next_sequence_length"] = input_ids.shape[1] - seen
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if seen:
            for name in PICTURE_INPUTS:
                inputs[name] = None
        return inputs
