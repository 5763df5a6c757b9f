"""The student: its configuration, and the teacher's weights in its layout."""

from __future__ import annotations

from typing import Any

import torch

from models.families.llada import LLaDA
from recipes.stories.batches import CANVAS, END, START
from recipes.stories.teacher import Teacher


def student_config(vocab_size: int) -> dict[str, Any]:
    """``config.json`` of the student, with LLaDA's field names."""
    return {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "block_type": "llama",
        "d_model": 288,
        "n_layers": 6,
        "n_heads": 6,
        "n_kv_heads": 6,
        "mlp_hidden_size": 768,
        "mlp_ratio": 4,
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 10000.0,
        "rope_full_precision": True,
        "alibi": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "weight_tying": False,
        "block_group_size": 1,
        "max_sequence_length": CANVAS,
        "vocab_size": vocab_size,
        "embedding_size": vocab_size,
        "mask_token_id": vocab_size - 1,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "torch_dtype": "bfloat16",
    }


def start_from_teacher(student: LLaDA, teacher: Teacher, source: list[int]) -> None:
    """Copy the teacher's weights into the student, in the student's layout."""
    w, c = teacher.weights, student.config
    half_split = torch.cat((torch.arange(0, c.head_dim, 2), torch.arange(1, c.head_dim, 2)))
    rows = (torch.arange(c.n_heads)[:, None] * c.head_dim + half_split).flatten()
    embedding = w["embedding"][source]
    embedding = torch.cat((embedding, embedding.mean(0, keepdim=True)))  # the mask row
    state = {
        "wte.weight": embedding,
        "ff_out.weight": embedding,
        "ln_f.weight": w["final_norm"],
    }
    for i in range(c.n_layers):
        state |= {
            f"blocks.{i}.attn_norm.weight": w["attn_norm"][i],
            f"blocks.{i}.q_proj.weight": w["wq"][i][rows],
            f"blocks.{i}.k_proj.weight": w["wk"][i][rows],
            f"blocks.{i}.v_proj.weight": w["wv"][i],
            f"blocks.{i}.attn_out.weight": w["wo"][i],
            f"blocks.{i}.ff_norm.weight": w["ffn_norm"][i],
            f"blocks.{i}.ff_proj.weight": w["w1"][i],
            f"blocks.{i}.up_proj.weight": w["w3"][i],
            f"blocks.{i}.ff_out.weight": w["w2"][i],
        }
    student.load_state_dict({f"model.transformer.{name}": t for name, t in state.items()})
