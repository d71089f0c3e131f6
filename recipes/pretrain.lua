-- Trains the demo's teacher from scratch on our own arithmetic word problems, and writes it as a 4-bit GGUF file with its tokenizer.
--
--   kava recipes/pretrain.lua                 the command that made assets/demo/teacher.gguf (26 minutes on one of two busy cores)
--   kava recipes/pretrain.lua steps=200 out=/somewhere/teacher.gguf
--
-- Stopped at any time (ctrl-C included), it goes on where its last save was when called again with the same work folder.
local kava = require "kava"
local gguf_model = require "kava.gguf_model"

local help = [[
usage: kava recipes/pretrain.lua [key=value …]
  out=assets/demo/teacher.gguf   the file to write
  work=local_models/pretrain     folder of the resumable state
  type=q4_1                      of the matrices: q4_0 q4_1 q8_0 …
  steps=3000 batch=32 lr=3e-3 warmup=100 weight_decay=0.05 seed=1
  rows=60000                     training problems
  vocab=512 layers=6 hidden=128 ffn=256 heads=4 kv_heads=2
  threads=0                      0: the CPUs this process may use
  save_every=200 eval_every=500 heldout=200]]

local opts = { out = "assets/demo/teacher.gguf", work = "local_models/pretrain", type = "q4_1", steps = 3000, batch = 32, lr = 3e-3,
  warmup = 100, weight_decay = 0.05, seed = 1, rows = 60000, vocab = 512, layers = 6, hidden = 128, ffn = 256, heads = 4, kv_heads = 2,
  threads = 0, save_every = 200, eval_every = 500, heldout = 200 }
for _, argument in ipairs(arg) do
  if argument == "--help" then
    print(help)
    return 0
  end
  local key, value = argument:match "^([%w_]+)=(.*)$"
  if not key or opts[key] == nil then
    io.stderr:write(("pretrain: unknown argument '%s'; --help lists the known ones\n"):format(argument))
    return 2
  end
  if type(opts[key]) == "number" then
    local number = math.tointeger(tonumber(value)) or tonumber(value)
    if not number then
      io.stderr:write(("pretrain: %s=%s: a number expected\n"):format(key, value))
      return 2
    end
    value = number
  end
  opts[key] = value
end

local home = (arg[0]:match "^(.*)recipes/[^/]*$" or "./")
local problems = dofile(home .. "recipes/problems.lua")
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
assert(kava.fs.mkdir(opts.work))

-- 2. A tokenizer of its own: SmolLM2's pattern keeps every digit alone, so that sums are done column by column.
local function corpus()
  local texts = {}
  for i = 1, math.min(#rows, 4000) do texts[i] = rows[i].question .. "\n" .. rows[i].answer end
  return texts
end
local tokenizer = assert(kava.tokenizer.train { texts = corpus(), vocab_size = opts.vocab })
assert(tokenizer:save(opts.work))
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

local state_path = opts.work .. "/state.safetensors"
local first = 1

local function save(step)
  local tensors = {}
  for name, t in pairs(model:parameters()) do tensors["model." .. name] = t:detach() end
  for name, t in pairs(optimizer:state()) do tensors["optimizer." .. name] = t end
  local plan = ("%d %d %d %d"):format(opts.steps, opts.batch, opts.layers, opts.hidden)
  assert(kava.safetensors.save(state_path .. ".partial", tensors, { step = tostring(step), plan = plan }))
  assert(os.rename(state_path .. ".partial", state_path))
end

local function restore()
  local file = io.open(state_path)
  if not file then return end
  file:close()
  local tensors, metadata = kava.safetensors.load(state_path)
  assert(tensors, metadata)
  local state = {}
  for name, t in pairs(tensors) do
    local of, rest = name:match "^(%a+)%.(.*)$"
    if of == "model" then kava.no_grad(function() model:parameters()[rest]:copy_(t) end) else state[rest] = t end
  end
  optimizer:load_state(state)
  first = math.tointeger(tonumber(metadata.step)) + 1
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

say("%d weights, %d tokens in the vocabulary, %d problems, %d steps an epoch, %d threads", weights, tokenizer.vocab_size, #rows, per_epoch,
  kava.threads())

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
  optimizer:step()
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

assert(kava.no_grad(write_gguf, opts.out, model))
local quantised = assert(kava.model.load(opts.out))
ce, share = judge(quantised)
say("%s: %.2f MB, held-out CE %.4f, exact match %.1f %%", opts.out, kava.fs.size(opts.out) / 1e6, ce, 100 * share)
return 0
