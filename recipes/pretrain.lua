-- Trains the demo's teacher from scratch on our own arithmetic word problems, and writes it as a 4-bit GGUF file with its tokenizer.
--
--   kava recipes/pretrain.lua                 the command that made assets/demo/teacher.gguf (26 minutes on one of two busy cores)
--   kava recipes/pretrain.lua steps=200 out=/somewhere/teacher.gguf
--
-- Stopped at any time (ctrl-C included), it goes on where its last save was when called again with the same work folder.
local kava = require "kava"
local cli = require "kava.cli"
local gguf_model = require "kava.gguf_model"
local problems = require "recipes.problems"

local function pretrain(opts)
  local cosine = kava.loss.schedule "cosine"

  local function say(...)
    print((...):format(select(2, ...)))
    io.stdout:flush()
  end

  -- 1. The text.
  kava.threads(opts.threads)
  kava.seed(opts.seed)
  local rows = problems.rows { seed = opts.seed, count = opts.rows, split = "train" }
  local heldout = problems.rows { seed = opts.seed, count = opts.heldout, split = "heldout" }
  cli.try(kava.fs.mkdir(opts.work))

  -- 2. A tokenizer of its own: SmolLM2's pattern keeps every digit alone, so that sums are done column by column.
  local function corpus()
    local texts = {}
    for i = 1, math.min(#rows, 4000) do texts[i] = rows[i].question .. "\n" .. rows[i].answer end
    return texts
  end
  local tokenizer = cli.try(kava.tokenizer.train { texts = corpus(), vocab_size = opts.vocab })
  cli.try(tokenizer:save(opts.work))
  local batch_at, per_epoch = problems.batches(rows, tokenizer, { batch = opts.batch, seed = opts.seed })
  local held_at, held_count = problems.batches(heldout, tokenizer, { batch = 50, shuffle = false })

  -- 3. The model, fresh or where it was left.
  local config = { model_type = "llama", vocab_size = tokenizer.vocab_size, hidden_size = opts.hidden, intermediate_size = opts.ffn,
    num_hidden_layers = opts.layers, num_attention_heads = opts.heads, num_key_value_heads = opts.kv_heads,
    head_dim = opts.hidden // opts.heads, rms_norm_eps = 1e-5, rope_theta = 10000.0, max_position_embeddings = 256,
    tie_word_embeddings = true, hidden_act = "silu" }
  local model = kava.model.create(config, { std = 0.06 }):requires_grad(true)
  local weights = 0
  for _, t in pairs(model:parameters()) do weights = weights + t:numel() end

  -- Matrices decay, norms do not.
  local matrices, vectors = {}, {}
  for name, t in pairs(model:parameters()) do (#t.shape > 1 and matrices or vectors)[name] = t end
  local optimizer = kava.optim.adamw({ { params = matrices, lr = opts.lr }, { params = vectors, lr = opts.lr, weight_decay = 0 } },
    { betas = { 0.9, 0.98 }, weight_decay = opts.weight_decay })

  local state_path = opts.work .. "/state.kava"
  local plan = ("batch=%d rows=%d seed=%d vocab=%d layers=%d hidden=%d ffn=%d heads=%d kv_heads=%d"):format(opts.batch, opts.rows,
    opts.seed, opts.vocab, opts.layers, opts.hidden, opts.ffn, opts.heads, opts.kv_heads)
  local first = 1

  local function save(step)
    local tensors = {}
    for name, t in pairs(model:parameters()) do tensors["model." .. name] = t:detach() end
    for name, t in pairs(optimizer:state()) do tensors["optimizer." .. name] = t end
    cli.try(kava.checkpoint.save(state_path, tensors, { step = step, plan = plan }))
  end

  local function restore()
    if not kava.fs.exists(state_path) then return end
    local tensors, meta = cli.try(kava.checkpoint.load(state_path))
    if meta.plan ~= plan then
      cli.fail(("%s is of another plan:\n  %s there\n  %s here\nGive the same keys or another work="):format(state_path, meta.plan, plan),
        cli.exit.usage)
    end
    local state = {}
    for name, t in pairs(tensors) do
      local of, rest = name:match "^(%a+)%.(.*)$"
      if of == "model" then kava.no_grad(function() model:parameters()[rest]:copy_(t) end) else state[rest] = t end
    end
    cli.try(optimizer:load_state(state))
    first = meta.step + 1
    say("resumed after step %d", first - 1)
  end
  restore()

  local loss = kava.loss.build("none", { student = model, loss = { ce = 1 } })
  local function judge(m)
    local batches = {}
    for i = 1, held_count do batches[i] = held_at(i) end
    local figures = kava.evaluate(kava.loss.build("none", { student = m, loss = { ce = 1 } }), batches)
    local share = kava.generate.exact_match(m, tokenizer, heldout, { max_tokens = 48, batch = 50 })
    return figures.ce, share
  end

  say("%d weights, %d tokens in the vocabulary, %d problems, %d steps an epoch, %d threads", weights, tokenizer.vocab_size, #rows,
    per_epoch, kava.threads())

  -- 4. Training.
  local started, tokens = kava.clock(), 0
  for step = first, opts.steps do
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local batch = batch_at(step)
    local total = loss:step(batch, step)
    total:backward()
    kava.optim.clip_grad_norm(model:parameters(), 1.0)
    local rate = opts.lr * cosine(step, { steps = opts.steps, warmup = opts.warmup })
    optimizer:set_lr(1, rate)
    optimizer:set_lr(2, rate)
    cli.try(optimizer:step())
    optimizer:zero_grad()
    tokens = tokens + batch.input_ids:numel()
    if step % 50 == 0 or step == first then
      say("step %d  loss %.4f  rate %.2e  %d tokens/s  %.0f s", step, total:item(), rate, math.floor(tokens / (kava.clock() - started)),
        kava.clock() - started)
    end
    if step % opts.save_every == 0 or step == opts.steps then save(step) end
    if step % opts.eval_every == 0 and step < opts.steps then
      local ce, share = judge(model)
      say("step %d  held out: CE %.4f, exact match %.1f %%", step, ce, 100 * share)
    end
  end
  local ce, share = judge(model)
  say("trained: held-out CE %.4f, exact match %.1f %%", ce, 100 * share)

  -- 5. 4 bits, named and ordered as llama.cpp has them: matrices in opts.type but for the embedding, which is the head as well, in 8 bits;
  -- rows of Q and K for interleaved rotation.
  local file_types = { q4_0 = 2, q4_1 = 3, q8_0 = 7 } -- general.file_type

  -- No end-of-text id: a problem ends with its line, and the teacher has seen nothing after it.
  local function tokenizer_metadata()
    local merges, names, kinds = {}, {}, {}
    for i, merge in ipairs(assert(kava.json.load(opts.work .. "/tokenizer.json")).model.merges) do
      merges[i] = type(merge) == "table" and table.concat(merge, " ") or merge
    end
    for id = 0, tokenizer.vocab_size - 1 do
      names[id + 1], kinds[id + 1] = tokenizer:token(id), id == tokenizer.eos_id and 3 or 1 -- control, normal
    end
    return {
      ["tokenizer.ggml.model"] = "gpt2", ["tokenizer.ggml.pre"] = "smollm", ["tokenizer.ggml.tokens"] = names,
      ["tokenizer.ggml.token_type"] = kinds, ["tokenizer.ggml.merges"] = merges, ["tokenizer.ggml.padding_token_id"] = tokenizer.pad_id,
      ["tokenizer.ggml.add_bos_token"] = false,
    }
  end

  local function write_gguf(path, m)
    local metadata = gguf_model.metadata(m)
    for key, value in pairs(tokenizer_metadata()) do metadata[key] = value end
    metadata["general.name"] = "KAVA demo teacher: arithmetic word problems"
    metadata["general.file_type"], metadata["general.quantization_version"] = file_types[opts.type], 2
    local tensors = gguf_model.tensors(m, function(t, key) return kava.gguf.quantize(t, key == "embed" and "q8_0" or opts.type) end)
    return kava.gguf.save(path, tensors, metadata)
  end

  cli.try(kava.no_grad(write_gguf, opts.out, model))
  local quantised = cli.try(kava.model.load(opts.out))
  ce, share = judge(quantised)
  say("%s: %.2f MB, held-out CE %.4f, exact match %.1f %%", opts.out, kava.fs.size(opts.out) / 1e6, ce, 100 * share)
  return cli.exit.done
end

return cli.recipe({
  name = "pretrain",
  about = "Trains the demo's teacher from scratch on arithmetic word problems and writes it as a 4-bit GGUF file with its tokenizer.",
  keys = {
    { "out", "string", "the file to write" },
    { "work", "string", "folder of the resumable state" },
    { "type", "string", "of the matrices", choices = { "q4_0", "q4_1", "q8_0" } },
    { "steps", "integer", "optimizer steps", min = 1 },
    { "batch", "integer", "problems a step", min = 1 },
    { "lr", "number", "the highest rate", above = 0 },
    { "warmup", "integer", "steps in which the rate rises from 0", min = 0 },
    { "weight_decay", "number", "of matrices", min = 0 },
    { "seed", "integer", "of the weights, the problems and their order" },
    { "rows", "integer", "training problems", min = 1 },
    { "heldout", "integer", "held-out problems", min = 1 },
    { "vocab", "integer", "entries of the tokenizer, at most", min = 258 },
    { "layers", "integer", "of the model", min = 1 },
    { "hidden", "integer", "its width", min = 32 },
    { "ffn", "integer", "the MLP's width", min = 32 },
    { "heads", "integer", "query heads", min = 1 },
    { "kv_heads", "integer", "key heads", min = 1 },
    { "threads", "integer", "CPU threads, 0: as many as this process may use", min = 0 },
    { "save_every", "integer", "steps between saves", min = 1 },
    { "eval_every", "integer", "steps between evaluations", min = 1 },
  },
  defaults = { out = "assets/demo/teacher.gguf", work = "local_models/pretrain", type = "q4_1", steps = 3000, batch = 32, lr = 3e-3,
    warmup = 100, weight_decay = 0.05, seed = 1, rows = 60000, vocab = 512, layers = 6, hidden = 128, ffn = 256, heads = 4, kv_heads = 2,
    threads = 0, save_every = 200, eval_every = 500, heldout = 200 },
  run = pretrain,
}, ...)
