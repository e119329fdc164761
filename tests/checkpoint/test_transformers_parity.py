"""Models compared with the classes of the installed Transformers: same weights, same numbers, in both directions.

Full depth (12 image and 12 text layers) at a small width, so that a test takes a second; once more at the real size.
If Transformers differs from the original, the test names the option that makes the two comparable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from blip import inference
from blip.checkpoint import files, hf
from blip.checkpoint.load import load
from blip.io.image import prepare
from blip.model.blip import BlipModel
from blip.model.losses import lm_loss
from blip.tokenizer import Tokenizer
from blip_lite import ASSETS
from blip_lite.config import BlipConfig, Family, TextConfig, VisionConfig, published_config, with_image_size
from blip_lite.decoding import Beam, Decoding, Greedy, Nucleus
from blip_lite.tokenizer import First
from tests.oracle_files import oracle_config, oracle_model, tensors, values

Direction = Literal["from transformers", "to transformers"]
BOTH_WAYS = pytest.mark.parametrize("direction", ["from transformers", "to transformers"])
CLASSES: dict[str, str] = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
}
TEXTS = ["a woman sitting on the beach with a dog", "two cats", "a large red bus on a city street at night"]
PROMPT = (4000, 1037, 3861, 1997)  # of the oracle: [DEC] a picture of
QUESTIONS = ["where?", "what is the woman on the left side of the red car holding in her hand?", "who?"] * 3


@dataclass(frozen=True)
class Pair:
    """The same weights in a model of this package and one of Transformers, both in evaluation mode."""

    ours: BlipModel
    theirs: Any
    tokenizer: Tokenizer

    @property
    def config(self) -> BlipConfig:
        return self.ours.config

    def images(self, count: int = 3, size: int | None = None) -> Tensor:
        size = size or self.config.vision.image_size
        return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def small_config(family: Family) -> BlipConfig:
    """Unequal widths if Transformers supports them: its answer decoder is as wide as the image tower."""
    width = 64 if family == "vqa" else 48
    return BlipConfig(
        family=family,
        vision=VisionConfig(image_size=64, width=width, num_layers=12, num_heads=4, mlp_width=96),
        text=TextConfig(width=64, num_layers=12, num_heads=4, mlp_width=128, max_length=64),
        proj_width=24,
    )


def shake(module: nn.Module) -> None:
    """Random weights with varied outputs: initial ones (std 0.02, or 1e-10) repeat one word for all images.

    Residual branches are scaled down, or the previous words would be lost after twelve layers.
    """
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.lower().endswith(("norm.weight", "norm1.weight", "norm2.weight")):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() < 2 or "embed" in name:
                parameter.copy_(0.2 * noise)
            else:
                residual = name.endswith(("out.weight", "output.dense.weight", "projection.weight", "fc2.weight"))
                parameter.copy_((0.3 if residual else 1.0) * noise / parameter[0].numel() ** 0.5)


def make_ends_likely(bias: Tensor, word: Tensor, sep_id: int) -> None:
    """Raise the score of [SEP], so that some texts end early and others reach the full length."""
    with torch.no_grad():
        bias[sep_id] += 4.2 * float(word.norm(dim=1).mean())


Pairs = Callable[[Family, Direction], Pair]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    transformers = pytest.importorskip("transformers")

    @cache
    def build(family: Family, direction: Direction) -> Pair:
        folder = tmp_path_factory.mktemp("model")
        if direction == "from transformers":
            return from_theirs(getattr(transformers, CLASSES[family])(their_config(small_config(family))), folder)
        return to_theirs(BlipModel(small_config(family)).eval(), folder)

    return build


def their_config(config: BlipConfig) -> Any:
    """Sizes only: eps, text heads (8) and ids are the class defaults, as in published files."""
    from transformers import BlipConfig as TheirConfig

    vision, text = config.vision, config.text
    return TheirConfig(
        image_text_hidden_size=config.proj_width,
        vision_config={
            "hidden_size": vision.width,
            "num_hidden_layers": vision.num_layers,
            "intermediate_size": vision.mlp_width,
            "num_attention_heads": vision.num_heads,
            "image_size": vision.image_size,
        },
        text_config={
            "hidden_size": text.width,
            "num_hidden_layers": text.num_layers,
            "intermediate_size": text.mlp_width,
            "max_position_embeddings": text.max_length,
            "label_smoothing": text.label_smoothing,
        },
    )


def from_theirs(theirs: Any, folder: Path) -> Pair:
    """A model saved by Transformers and loaded by this package."""
    shake(theirs.eval())
    if hasattr(theirs, "text_decoder"):
        decoder = theirs.text_decoder
        make_ends_likely(decoder.cls.predictions.bias, decoder.get_input_embeddings().weight, 102)
    theirs.save_pretrained(folder)
    loaded = load(folder)
    return Pair(loaded.model, theirs, loaded.tokenizer)


def to_theirs(ours: BlipModel, folder: Path) -> Pair:
    """A model written by this package and opened by Transformers, without missing or unexpected keys."""
    import transformers

    shake(ours)
    if hasattr(ours, "decoder"):
        make_ends_likely(ours.decoder.lm_head.bias, ours.decoder.embed.word.weight, ours.config.text.sep_id)
    files.write_hf_folder(folder, ours.state_dict(), ours.config)
    cls = getattr(transformers, CLASSES[ours.config.family])
    theirs, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return Pair(ours, theirs.eval(), Tokenizer.from_config(ours.config))


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Compare the largest difference, relative to the largest value; it is rounding of both libraries."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


# Images and texts ----------------------------------------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("family", CLASSES)
def test_configs_agree(pair: Pairs, family: Family, direction: Direction) -> None:
    """Settings whose differences would not show at this size; the head widths here are not the published ones."""
    both = pair(family, direction)
    (vision, text), theirs = (both.config.vision, both.config.text), both.theirs.config
    assert (vision.norm_eps, text.norm_eps) == (theirs.vision_config.layer_norm_eps, theirs.text_config.layer_norm_eps)
    assert vision.norm_eps == (1e-5 if direction == "from transformers" else 1e-6)
    assert vision.num_heads == theirs.vision_config.num_attention_heads == 4
    assert text.num_heads == theirs.text_config.num_attention_heads == (8 if direction == "from transformers" else 4)
    assert (vision.num_layers, text.num_layers) == (12, 12)
    assert theirs.text_config.label_smoothing == text.label_smoothing == 0.1


@BOTH_WAYS
def test_image_states_of_every_layer_are_equal(pair: Pairs, direction: Direction) -> None:
    both = pair("caption", direction)
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *args: seen.append(args[2])) for block in both.ours.vision.blocks]
    with torch.no_grad():
        last = both.ours.encode_image(both.images())
        theirs = both.theirs.vision_model(both.images(), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 12 and len(theirs.hidden_states) == 13  # theirs starts with the embeddings
    for ours, expected in zip(seen, theirs.hidden_states[1:], strict=True):
        assert_close(ours, expected)
    assert_close(last, theirs.last_hidden_state)


@BOTH_WAYS
def test_image_states_at_another_size_are_equal(pair: Pairs, direction: Direction, tmp_path: Path) -> None:
    both = pair("caption", direction)
    files.write_folder(tmp_path, both.ours.state_dict(), both.config)
    larger = load(tmp_path, image_size=96).model
    with torch.no_grad():
        theirs = both.theirs.vision_model(both.images(size=96), interpolate_pos_encoding=True)
        assert_close(larger.encode_image(both.images(size=96)), theirs.last_hidden_state)


@BOTH_WAYS
@pytest.mark.parametrize("family", ["retrieval", "vqa"])
def test_text_and_fused_states_are_equal(pair: Pairs, family: Family, direction: Direction) -> None:
    both = pair(family, direction)
    ids, mask = both.tokenizer.encode(TEXTS, first="enc")
    real = mask.bool()  # states of padding are not used
    with torch.no_grad():
        image_embeds = both.ours.encode_image(both.images())
        alone = both.theirs.text_encoder(ids, attention_mask=mask).last_hidden_state
        fused = both.theirs.text_encoder(ids, attention_mask=mask, encoder_hidden_states=image_embeds).last_hidden_state
        assert_close(both.ours.encode_text(ids, mask)[real], alone[real])
        assert_close(both.ours.fuse(ids, mask, image_embeds)[real], fused[real])
    assert not torch.allclose(alone[real], fused[real], atol=0.1)


# Matching ------------------------------------------------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("first", ["cls", "enc"])
def test_match_scores_are_equal(pair: Pairs, first: First, direction: Direction) -> None:
    """Transformers uses the ids of the caller, with [CLS]; the original was trained with [ENC] (blip-spec 7.3)."""
    both = pair("retrieval", direction)
    encoded = both.tokenizer.encode(TEXTS, first=first)  # padded and masked there, without padding here
    with torch.no_grad():
        image_embeds = both.ours.encode_image(both.images())
        captions = inference.match(both.ours, both.tokenizer, image_embeds, TEXTS, first=first)
        for i, image in enumerate(both.images().split(1)):
            logits = both.theirs(
                input_ids=encoded.input_ids,
                attention_mask=encoded.attention_mask,
                pixel_values=image.expand(3, -1, -1, -1),
            ).itm_score
            assert_close(inference.match_logits(both.ours, image_embeds[i : i + 1], encoded), logits)
            assert_close(captions.itm[i], logits.softmax(dim=-1)[:, 1])


@BOTH_WAYS
def test_cosines_are_equal(pair: Pairs, direction: Direction) -> None:
    both = pair("retrieval", direction)
    ids, mask = both.tokenizer.encode(TEXTS)  # [CLS], in both
    with torch.no_grad():
        image_embeds = both.ours.encode_image(both.images())
        captions = inference.match(both.ours, both.tokenizer, image_embeds, TEXTS)
        theirs = both.theirs(input_ids=ids, attention_mask=mask, pixel_values=both.images(), use_itm_head=False)
    assert_close(captions.itc, theirs.itm_score)
    assert float(theirs.itm_score.std()) > 0.01


# Captions ------------------------------------------------------------------------------------------------------------


@BOTH_WAYS
def test_caption_logits_are_equal(pair: Pairs, direction: Direction) -> None:
    both = pair("caption", direction)
    ids, mask = both.tokenizer.encode(TEXTS, first="dec")
    with torch.no_grad():
        theirs = both.theirs(input_ids=ids, attention_mask=mask, pixel_values=both.images()).logits
        ours = both.ours.decode(ids, mask, both.ours.encode_image(both.images()))
    assert_close(ours[mask.bool()], theirs[mask.bool()])


@BOTH_WAYS
def test_caption_loss_is_equal(pair: Pairs, direction: Direction) -> None:
    """Label smoothing is 0.1 in the original and 0 by default in Transformers; the config must set it."""
    both = pair("caption", direction)
    ids, mask = both.tokenizer.encode(TEXTS, first="dec")
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        theirs = both.theirs(input_ids=ids, attention_mask=mask, labels=labels, pixel_values=both.images()).loss
        ours = both.ours.lm_loss(ids, mask, labels, both.ours.encode_image(both.images()))
    assert_close(ours, theirs)


def their_options(decoding: Decoding) -> dict[str, Any]:
    """Arguments of their `generate` for a decoding."""
    options = {name: getattr(decoding, name) for name in ("max_length", "min_length", "repetition_penalty")}
    if isinstance(decoding, Beam):
        names = ("num_beams", "length_penalty", "early_stopping")
        return options | {name: getattr(decoding, name) for name in names}
    if isinstance(decoding, Nucleus):
        return options | {"do_sample": True} | {n: getattr(decoding, n) for n in ("top_p", "top_k", "temperature")}
    return options | {"num_beams": 1, "do_sample": False}


def new_ids(rows: Tensor, prompt: int, sep_id: int = 102) -> list[tuple[int, ...]]:
    """Generated ids up to the first [SEP]; the rest is padding, which their beam search fills with [SEP]."""
    generated = [row[prompt:] for row in rows.tolist()]
    return [tuple(ids[: ids.index(sep_id) + 1] if sep_id in ids else ids) for ids in generated]


def their_captions(both: Pair, images: Tensor, decoding: Decoding, prompt: str) -> list[tuple[int, ...]]:
    ids = both.tokenizer.prompt_ids(prompt)
    # they replace the first id by [DEC] and drop the last one, the tokenizer's [SEP]
    given = torch.tensor([[101, *ids[1:], 102]] * len(images))
    return new_ids(both.theirs.generate(images, input_ids=given, **their_options(decoding)), len(ids))


@BOTH_WAYS
@pytest.mark.parametrize(
    "decoding",
    [
        Greedy(),
        Greedy(min_length=10, repetition_penalty=1.3),
        Beam(length_norm="new", early_stopping=True),
        Beam(
            num_beams=5,
            min_length=8,
            repetition_penalty=1.1,
            length_penalty=2.0,
            length_norm="new",
            early_stopping=True,
        ),
    ],
    ids=["greedy", "greedy with penalty", "beams", "beams with penalties"],
)
def test_captions_are_equal(pair: Pairs, decoding: Decoding, direction: Direction) -> None:
    """Beam scores are divided by the number of new ids there, of all ids in the original: `length_norm`."""
    both = pair("caption", direction)
    images = both.images(6)
    captions = inference.caption(both.ours, both.tokenizer, both.ours.encode_image(images), decoding)
    ours = [row[0].ids for row in captions]
    assert ours == their_captions(both, images, decoding, both.config.prompt)
    assert len(set(ours)) > 1  # else the test would prove little


@pytest.mark.parametrize(
    "decoding", [Greedy(min_length=0), Beam(length_norm="new", early_stopping=True)], ids=["greedy", "beams"]
)
def test_captions_without_prompt_are_equal(pair: Pairs, decoding: Decoding) -> None:
    """Their default prompt is empty: [DEC] only."""
    both = pair("caption", "from transformers")
    captions = inference.caption(both.ours, both.tokenizer, both.ours.encode_image(both.images()), decoding, prompt="")
    theirs = both.theirs.generate(both.images(), **their_options(decoding))
    assert [row[0].ids for row in captions] == new_ids(theirs, 1)


def test_caption_scores_are_equal(pair: Pairs) -> None:
    """Without penalties their beam score is the mean log-probability of the new ids."""
    both, decoding = pair("caption", "to transformers"), Beam(length_norm="new", early_stopping=True)
    captions = inference.caption(both.ours, both.tokenizer, both.ours.encode_image(both.images()), decoding)
    given = torch.tensor([[*both.tokenizer.prompt_ids(both.config.prompt), 102]] * 3)
    options = their_options(decoding) | {"return_dict_in_generate": True, "output_scores": True}
    theirs = both.theirs.generate(both.images(), input_ids=given, **options)
    assert_close(torch.tensor([row[0].score for row in captions]), theirs.sequences_scores)


def test_beam_searches_stop_at_the_same_length(pair: Pairs) -> None:
    both = pair("caption", "to transformers")
    images, decoding = both.images(16), Beam(length_norm="new", repetition_penalty=1.1)
    captions = inference.caption(both.ours, both.tokenizer, both.ours.encode_image(images), decoding)
    assert [row[0].ids for row in captions] == their_captions(both, images, decoding, both.config.prompt)


@pytest.mark.parametrize("seed", [0, 7])
def test_sampled_captions_are_equal_for_equal_seeds(pair: Pairs, seed: int) -> None:
    both = pair("caption", "from transformers")
    images, decoding = both.images(4), Nucleus()
    ours = inference.caption(
        both.ours,
        both.tokenizer,
        both.ours.encode_image(images),
        decoding,
        generator=torch.Generator().manual_seed(seed),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = their_captions(both, images, decoding, both.config.prompt)
    assert [row[0].ids for row in ours] == theirs


# Answers -------------------------------------------------------------------------------------------------------------


def questions(both: Pair, texts: list[str]) -> dict[str, Tensor]:
    """[ENC] first, as in the original; in Transformers the caller has to insert it."""
    ids, mask = both.tokenizer.encode(texts, first="enc")
    return {"input_ids": ids, "attention_mask": mask}


@BOTH_WAYS
@pytest.mark.parametrize(
    "decoding",
    [
        Greedy(min_length=3, max_length=10, repetition_penalty=1.2),
        Beam(min_length=1, max_length=10, repetition_penalty=1.1, length_norm="new", early_stopping=True),
        Beam(num_beams=5, min_length=4, max_length=12, repetition_penalty=1.2, length_norm="new", early_stopping=True),
    ],
    ids=["greedy", "beams", "more beams"],
)
def test_answers_are_equal(pair: Pairs, decoding: Decoding, direction: Direction) -> None:
    """They attend to the padding of shorter questions, as the original; here that is an option (blip-spec 7.6)."""
    both = pair("vqa", direction)
    images = both.images(len(QUESTIONS))
    with torch.no_grad():
        image_embeds = both.ours.encode_image(images)
    padded, masked = (
        [
            row[0].ids
            for row in inference.answer(
                both.ours, both.tokenizer, image_embeds, QUESTIONS, decoding, attend_padding=attend_padding
            )
        ]
        for attend_padding in (True, False)
    )
    theirs = both.theirs.generate(**questions(both, QUESTIONS), pixel_values=images, **their_options(decoding))
    assert padded == new_ids(theirs, 1)
    assert padded != masked  # else the test would prove little


@BOTH_WAYS
def test_answer_to_one_question_is_equal_with_its_mask(pair: Pairs, direction: Direction) -> None:
    both, decoding = pair("vqa", direction), Greedy(min_length=3, max_length=10, repetition_penalty=1.2)
    for question, image in zip(QUESTIONS[:3], both.images().split(1), strict=True):
        with torch.no_grad():
            image_embeds = both.ours.encode_image(image)
            ours = inference.answer(both.ours, both.tokenizer, image_embeds, [question], decoding)[0][0].ids
        theirs = both.theirs.generate(**questions(both, [question]), pixel_values=image, **their_options(decoding))
        assert [ours] == new_ids(theirs, 1)


@BOTH_WAYS
def test_answer_logits_and_loss_are_equal(pair: Pairs, direction: Direction) -> None:
    """Questions of one length: their answer decoder ignores the mask of padded ones (see hf_comparison.json)."""
    both = pair("vqa", direction)
    question = questions(both, ["what is that?", "where is he?", "who is it?"])
    assert question["attention_mask"].all()
    ids, mask = both.tokenizer.encode(["yes", "on the table", "two men"], first="dec")
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        image_embeds = both.ours.encode_image(both.images())
        states = both.ours.fuse(question["input_ids"], question["attention_mask"], image_embeds)
        logits = both.theirs.text_decoder(ids, attention_mask=mask, encoder_hidden_states=states).logits
        loss = both.theirs(
            **question, pixel_values=both.images(), labels=labels, decoder_input_ids=ids, decoder_attention_mask=mask
        ).loss
        assert_close(both.ours.decode(ids, mask, states)[mask.bool()], logits[mask.bool()])
        assert_close(both.ours.lm_loss(ids, mask, labels, states), loss)


# Files ---------------------------------------------------------------------------------------------------------------


def test_half_precision_folder_loads_with_the_stored_values(pair: Pairs, tmp_path: Path) -> None:
    theirs = copy.deepcopy(pair("retrieval", "from transformers").theirs).half()
    theirs.save_pretrained(tmp_path)
    ours, state = load(tmp_path).model, theirs.state_dict()
    assert ours.vision.norm.weight.dtype == torch.float32
    assert torch.equal(ours.vision.norm.weight, state["vision_model.post_layernorm.weight"].float())
    fused = state["vision_model.encoder.layers.3.self_attn.qkv.weight"].float()
    assert torch.equal(ours.vision.blocks[3].attn.v.weight, fused[-len(fused) // 3 :])


def test_their_image_processor_computes_equal_pixels(tmp_path: Path) -> None:
    """With their Pillow backend; the default one resizes tensors and differs by some grey levels (blip-spec 7.16).

    No tall images: this package resizes them in the order of passes of Pillow 13, theirs in that of the installed one.
    """
    processing = pytest.importorskip("transformers.models.blip.image_processing_pil_blip")
    config = small_config("caption")
    files.write_hf_folder(tmp_path, BlipModel(config).state_dict(), config)
    processor = processing.BlipImageProcessorPil.from_pretrained(tmp_path)
    noise = torch.randint(256, (3, 90, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)).numpy()
    images = [Image.fromarray(noise[0]), Image.fromarray(noise[1][:30, :30]), Image.fromarray(noise[2][:20])]
    theirs = processor(images, return_tensors="pt").pixel_values
    ours = prepare(images, size=64, mean=config.image_mean, std=config.image_std)
    assert_close(ours, theirs)


def test_class_defaults_equal_the_recorded_ones(pair: Pairs) -> None:
    """Published config.json files contain only what differs from these."""
    import transformers

    recorded = values("hf_comparison")["defaults"]
    for cls in (transformers.BlipTextConfig, transformers.BlipVisionConfig):
        expected = recorded[cls.__name__]
        assert {name: getattr(cls(), name) for name in expected} == expected


# Results recorded from Transformers 5.23.0 with the oracle's weights (needs no Transformers) -----

RECORDED = values("hf_comparison")
BEAM_RUNS = [run["run"] for run in RECORDED["caption_generation"] if run["num_beams"] > 1]


def oracle_captions(number: int, **changes: Any) -> list[inference.Hypothesis]:
    run = values("caption")["runs"][number]
    options = {name: run[name] for name in ("num_beams", "max_length", "min_length", "repetition_penalty")}
    images = tensors("inputs")["images"][slice(*run["images"])]
    vocabulary = (ASSETS / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer(vocabulary.splitlines()[:4000], oracle_config("caption").text)
    model = oracle_model("caption")
    captions = inference.caption(model, tokenizer, model.encode_image(images), Beam(**options, **changes))
    return [row[0] for row in captions]


def test_recorded_defaults_equal_the_constants() -> None:
    text, vision = (RECORDED["defaults"][f"Blip{part}Config"] for part in ("Text", "Vision"))
    assert (text["num_attention_heads"], text["layer_norm_eps"]) == (hf.HF_TEXT_HEADS, hf.HF_TEXT_EPS)
    assert (vision["num_attention_heads"], vision["layer_norm_eps"]) == (hf.HF_VISION_HEADS, hf.HF_VISION_EPS)
    ids = TextConfig()
    assert (text["bos_token_id"], text["sep_token_id"], text["pad_token_id"]) == (ids.dec_id, ids.sep_id, ids.pad_id)


@pytest.mark.parametrize("number", BEAM_RUNS)
def test_recorded_beam_captions_are_those_of_the_new_length_norm(number: int) -> None:
    """Equal to the original's except for 1 of 60 (run 17, image 1), which depends on the length norm."""
    run, original = RECORDED["caption_generation"][number], values("caption")["runs"][number]["ids"]
    ours = [(*PROMPT, *caption.ids) for caption in oracle_captions(number, length_norm="new")]
    for i, (ids, equal) in enumerate(zip(ours, run["equal"], strict=True)):
        recorded = original[i] if equal else run["hf_ids"][str(i)]
        assert ids == tuple(id_ for id_ in recorded if id_ != 0)


def test_recorded_beam_scores_are_those_of_either_length_norm() -> None:
    recorded = RECORDED["caption_beam_scores_run8"]
    new = oracle_captions(8, length_norm="new")
    assert [caption.score for caption in new] == pytest.approx(recorded["this_release"], abs=1e-5)
    total = [sum(c.logprobs) / (len(PROMPT) + len(c.ids) - (c.ids[-1] == 102)) for c in new]
    assert total == pytest.approx(recorded["original"], abs=1e-5)


def test_recorded_loss_differences_are_the_mask_that_they_ignore() -> None:
    """Their answer decoder attends to padded question states; this package only without the mask."""
    model, vqa = oracle_model("vqa"), tensors("vqa")
    recorded = {entry["what"]: entry["max_abs_difference"] for entry in RECORDED["comparisons"]}

    def difference(prefix: str, ids: str, mask: str, states: Tensor, states_mask: Tensor) -> float:
        input_ids, real = vqa[f"{prefix}.{ids}"], vqa[f"{prefix}.{mask}"]
        labels = input_ids.masked_fill(real == 0, -100)
        with_mask, without = (
            lm_loss(model.decode(input_ids, real, states, m), labels, 0.1, "none") for m in (states_mask, None)
        )
        return float((with_mask - without).detach().abs().max())

    measured = difference("xmask", "input_ids", "attention_mask", vqa["xmask.states"], vqa["xmask.mask"])
    assert measured == pytest.approx(recorded["vqa: decoder loss with a masked encoder state (xmask.loss)"], abs=1e-4)
    states, mask = (vqa[f"train.question_{name}"].repeat_interleave(vqa["train.n"], 0) for name in ("states", "mask"))
    measured = difference("train", "answer_ids", "answer_mask", states, mask)
    assert measured == pytest.approx(recorded["vqa: answer losses"], abs=1e-4)


# Real size -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", CLASSES)
def test_real_size_is_equal_in_both_directions(family: Family, tmp_path: Path) -> None:
    """ViT-B at 384 pixels, written here, opened and saved by Transformers, loaded here."""
    pytest.importorskip("transformers")
    config = with_image_size(published_config(family), 384)
    both = to_theirs(BlipModel(config).eval(), tmp_path / "ours")
    both.theirs.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs").model
    assert again.config.vision == config.vision and again.config.text == config.text
    ids, mask = both.tokenizer.encode(TEXTS[:2], first="dec" if family == "caption" else "enc")
    with torch.no_grad():
        theirs = both.theirs.vision_model(both.images(2)).last_hidden_state
        for model in (both.ours, again):
            image_embeds = model.encode_image(both.images(2))
            assert_close(image_embeds, theirs)
            if family == "caption":
                expected = both.theirs.text_decoder(ids, attention_mask=mask, encoder_hidden_states=theirs).logits
                assert_close(model.decode(ids, mask, image_embeds)[mask.bool()], expected[mask.bool()])
            else:
                expected = both.theirs.text_encoder(ids, attention_mask=mask, encoder_hidden_states=theirs)[0]
                assert_close(model.fuse(ids, mask, image_embeds)[mask.bool()], expected[mask.bool()])
    if family == "caption":
        captions = inference.caption(again, both.tokenizer, again.encode_image(both.images(2)), Greedy())
        assert [row[0].ids for row in captions] == their_captions(both, both.images(2), Greedy(), config.prompt)
