"""Transformers (Vaswani et al., "Attention Is All You Need", arXiv:1706.03762)."""

from __future__ import annotations

from .network import Builder, Network

BERT = "arXiv:1810.04805"


def transformer_encoder() -> Network:
    """One encoder layer of the size of BERT-base, and a class for each of 128 steps.

    768 features in 12 heads, 3072 in between, layer normalisation after each residual add, GELU;
    the nine classes are those of names in CoNLL-2003 (section 5.3 of the BERT paper).  The
    embeddings before it and dropout are left out.
    """
    net = Builder()
    x = net.input(128, 768)
    query, key, value = (net.fully_connected(name, x, 768) for name in ("query", "key", "value"))
    mixed = net.attention("attention", query, key, value, head_size=64)
    mixed = net.fully_connected("attention_output", mixed, 768)
    x = net.layer_norm("attention_norm", net.add("attention_add", mixed, x))
    inner = net.gelu("gelu", net.fully_connected("inner", x, 3072))
    outer = net.fully_connected("outer", inner, 768)
    x = net.layer_norm("outer_norm", net.add("outer_add", outer, x))
    net.softmax_loss(net.fully_connected("classes", x, 9))
    return Network(
        "transformer-encoder",
        f"encoder layer of arXiv:1706.03762 in the size of BERT-base, {BERT}; synthetic data",
        tuple(net.layers),
        batch=16,
        quick_batch=1,
    )
