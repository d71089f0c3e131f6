"""Makes spec/golden/families/<name>: tiny models of each family with random weights, as transformers saves and runs them.

usage: OUT=spec/golden/families python make_families.py          (torch, transformers 5.17; the suite never runs this)
<name>/{config.json,model.safetensors}: as save_pretrained writes them, float32.
<name>/ref.safetensors: input_ids and attention_mask [B,T] i64 (right padding in row 1), logits [B,T,V], k.<layer> and v.<layer>
[B,Hkv,T,D] (after RoPE, whole: no sliding cache), ce_loss [] (mean over unpadded next tokens), grad.<param> of that loss; where the
rotation depends on the length also short.input_ids, short.logits, short.k.<layer>: a sequence within the original length.
Families have two layers and gradients; the rope kinds one layer and none."""
import os, torch, torch.nn.functional as F
from safetensors.torch import save_file
import transformers as tf

out = os.environ.get("OUT", ".")
torch.set_num_threads(2)
V, T, SHORT = 40, 20, 9
base = dict(vocab_size=V, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
wide = dict(base, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)


def families():
    yield "qwen2_sliding", lambda: tf.Qwen2Config(**base, use_sliding_window=True, sliding_window=6, max_window_layers=1, tie_word_embeddings=False)
    yield "qwen3", lambda: tf.Qwen3Config(**base, head_dim=8, tie_word_embeddings=True)
    yield "llama_biased", lambda: tf.LlamaConfig(**base, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    yield "mistral", lambda: tf.MistralConfig(**base, head_dim=8, sliding_window=6, tie_word_embeddings=False)
    yield "gpt2", lambda: tf.GPT2Config(vocab_size=V, n_positions=32, n_embd=16, n_layer=2, n_head=4, n_inner=20, resid_pdrop=0, embd_pdrop=0,
                                attn_pdrop=0, scale_attn_by_inverse_layer_idx=True, bos_token_id=1, eos_token_id=2)
    yield "gemma2", lambda: tf.Gemma2Config(**base, head_dim=8, query_pre_attn_scalar=12, sliding_window=6, attn_logit_softcapping=4.0,
                                    final_logit_softcapping=5.0, attention_dropout=0.0)
    yield "gemma3", lambda: tf.Gemma3TextConfig(**base, head_dim=8, query_pre_attn_scalar=12, sliding_window=6,
                                        layer_types=["sliding_attention", "full_attention"],
                                        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                                         "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}})
    yield "phi3", lambda: tf.Phi3Config(**base, sliding_window=7, tie_word_embeddings=False)
    yield "olmo2", lambda: tf.Olmo2Config(**base, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, tie_word_embeddings=False)
    yield "smollm3", lambda: tf.SmolLM3Config(**base, no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=6)
    yield "granite", lambda: tf.GraniteConfig(**base, embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.6, attention_multiplier=0.3,
                                      tie_word_embeddings=True)


def ropes():
    def llama(**rope): return tf.LlamaConfig(**dict(wide, max_position_embeddings=16), rope_parameters=dict(rope_theta=10000.0, **rope), tie_word_embeddings=True)
    yield "rope_linear", lambda: llama(rope_type="linear", factor=3.0)
    yield "rope_dynamic", lambda: llama(rope_type="dynamic", factor=2.0)
    yield "rope_yarn", lambda: llama(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
    yield "rope_yarn_mscale", lambda: llama(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.5, mscale=0.8,
                                    mscale_all_dim=0.5, truncate=False)
    yield "rope_longrope", lambda: tf.Phi3Config(**wide, original_max_position_embeddings=16, partial_rotary_factor=0.75, tie_word_embeddings=True,
                                         rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
                                                          "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4], "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0]})


def spread(m):
    "random weights that no error can hide behind; norms near what they start from, biases non-zero"
    for n, p in m.named_parameters():
        with torch.no_grad():
            if p.dim() == 1: p.add_(0.2 * torch.randn_like(p))
            else: p.copy_(torch.randn_like(p) * (0.6 if "emb" in n or "wte" in n or "wpe" in n else 1.2 / p.shape[-1] ** 0.5))


def run(m, ids, am=None):
    cache = tf.DynamicCache()  # of no configuration: it keeps all keys of sliding layers too
    return m(ids, attention_mask=am, past_key_values=cache, use_cache=True), cache


def make(name, config, grads):
    torch.manual_seed(sum(map(ord, name)))
    cfg = config()
    cfg._attn_implementation = "eager"
    m = tf.AutoModelForCausalLM.from_config(cfg, dtype=torch.float32)
    spread(m); m.tie_weights(); m.eval()
    d = f"{out}/{name}"; os.makedirs(d, exist_ok=True)
    m.save_pretrained(d, safe_serialization=True)
    if os.path.exists(d + "/generation_config.json"): os.remove(d + "/generation_config.json")
    ids = torch.randint(0, V, (2, T)); am = torch.ones(2, T, dtype=torch.long); am[1, T - 4:] = 0
    r = {"input_ids": ids, "attention_mask": am}
    if not grads:
        short = torch.randint(0, V, (1, SHORT))
        with torch.no_grad(): o, cache = run(m, short)
        r["short.input_ids"], r["short.logits"] = short, o.logits
        for i, l in enumerate(cache.layers): r[f"short.k.{i}"] = l.keys
    o, cache = run(m, ids, am)
    lab = ids.masked_fill(am == 0, -100)
    ce = F.cross_entropy(o.logits[:, :-1].reshape(-1, V), lab[:, 1:].reshape(-1), ignore_index=-100)
    r["logits"], r["ce_loss"] = o.logits.detach(), ce.detach()
    for i, l in enumerate(cache.layers): r[f"k.{i}"], r[f"v.{i}"] = l.keys.detach(), l.values.detach()
    assert cache.layers[0].keys.shape[2] == T
    if grads:
        ce.backward()
        for n, p in m.named_parameters(): r[f"grad.{n}"] = p.grad
    save_file({k: v.clone().contiguous() for k, v in r.items()}, f"{d}/ref.safetensors")
    size = sum(os.path.getsize(f"{d}/{f}") for f in os.listdir(d))
    print(name, sum(p.numel() for p in m.parameters()), "parameters", size, "bytes, ce", float(ce), [tuple(l.keys.shape) for l in cache.layers], flush=True)


failed = 0
for name, cfg, grads in [(n, c, True) for n, c in families()] + [(n, c, False) for n, c in ropes()]:
    try: make(name, cfg, grads)
    except Exception as e:
        import traceback; traceback.print_exc(); failed += 1; print("FAILED", name, repr(e), flush=True)
print(failed, "failed")
