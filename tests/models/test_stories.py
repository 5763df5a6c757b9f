"""The bundled checkpoint says what its card says."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from models.bundled import BUNDLED
from models.checkpoints.load import find_checkpoint, load_checkpoint
from recipes.stories.batches import encode
from recipes.stories.corpus import read_corpus, split
from recipes.stories.evaluate import sample, words
from recipes.stories.validation import nelbo
from sampler.noise_kernel import NoiseKernel
from sampler.samplers.topk import TopKParams
from server.engine.request_params import sampling_params
from tests.support.effort import count


@pytest.fixture(scope="module")
def stories():
    return load_checkpoint(find_checkpoint("stories"))


def test_readable_stories_that_end_with_the_shipped_defaults(stories):
    """Almost every word is one the corpus knows, and most reach their end token."""
    params, many = sampling_params(stories.defaults, {"seed": 0}), count(1, 8)
    texts = sample(stories, params, count=many, length=250, prompt="Once upon a time")
    known = {w for s in read_corpus() for w in words(s.text)}
    said = [w for text, _ in texts for w in words(text)]
    assert len(said) > many * 60
    assert sum(w in known for w in said) / len(said) >= 0.98
    assert sum(ended for _, ended in texts) >= 0.6 * many
    assert len({text for text, _ in texts}) == many


def test_shipped_defaults_keep_the_masks_of_a_step_apart(stories):
    shipped = sampling_params(stories.defaults, {}).own
    assert isinstance(shipped, TopKParams) and shipped.spacing > 0


@pytest.mark.slow
def test_nelbo_on_held_out_stories(stories):
    _, held = split(read_corpus())
    tokenizer = Tokenizer.from_file(str(BUNDLED / "stories" / "tokenizer.json"))
    kernel = NoiseKernel(0.1, stories.info.vocab_size, stories.info.mask_id)
    found = nelbo(stories.model, encode(held, tokenizer)[:128], kernel, 4)
    assert found["nats_per_token"] < 2.0
