"""The teacher as a folder in Hugging Face's Llama layout, for ``xdlm-loadtest --scorer``.

A left-to-right model of children's stories that judges what the student writes: it reads each
text in its own way, but it wrote the corpus that the student learnt from, so they share a style.

    python -m recipes.stories.export_teacher .work/teacher-llama
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.stories import teacher as teacher_file
from recipes.stories.build_tokenizer import full_tokenizer
from recipes.stories.corpus import WORK


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix, from rotating neighbours to rotating halves of a head."""
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def weights_of(teacher: teacher_file.Teacher) -> dict[str, Tensor]:
    """The teacher's tensors under Llama's names."""
    w, heads = teacher.weights, teacher.shape["n_heads"]
    found = {"model.embed_tokens.weight": w["embedding"], "model.norm.weight": w["final_norm"]}
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "wq",
        "self_attn.k_proj": "wk",
        "self_attn.v_proj": "wv",
        "self_attn.o_proj": "wo",
        "mlp.gate_proj": "w1",
        "mlp.down_proj": "w2",
        "mlp.up_proj": "w3",
    }
    for layer in range(teacher.shape["n_layers"]):
        for theirs, ours in names.items():
            weight = w[ours][layer]
            weight = halves(weight, heads) if ours in ("wq", "wk") else weight
            found[f"model.layers.{layer}.{theirs}.weight"] = weight.contiguous()
    return found


def export(teacher: teacher_file.Teacher, folder: Path) -> None:
    """Write model and tokenizer."""
    shape = teacher.shape
    config = LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["dim"],
        intermediate_size=shape["hidden_dim"],
        num_hidden_layers=shape["n_layers"],
        num_attention_heads=shape["n_heads"],
        num_key_value_heads=shape["n_kv_heads"],
        max_position_embeddings=shape["max_len"],
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=teacher_file.BOS,
        eos_token_id=teacher_file.BOS,
    )
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights_of(teacher), strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer = full_tokenizer(teacher.pieces)
    begin = tokenizer.id_to_token(teacher_file.BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, teacher_file.BOS)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin).save_pretrained(folder)


def main() -> None:
    """Export, and see that both say the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    teacher = teacher_file.load(teacher_file.download(WORK / "teacher"))
    export(teacher, folder)
    ids = torch.tensor([full_tokenizer(teacher.pieces).encode("Once upon a time, a dog ran.").ids])
    ids = torch.cat((torch.tensor([[teacher_file.BOS]]), ids), dim=1)
    ours = teacher_file.CausalTeacher(teacher, 1)(ids)
    with torch.inference_mode():
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    print(f"{folder}: logits differ by at most {float((ours - theirs).abs().max()):.1e}")


if __name__ == "__main__":
    main()
