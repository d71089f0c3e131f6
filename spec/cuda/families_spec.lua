-- Every family of decoders on a GPU against the CPU: keys, values, logits and the gradients of all parameters, in f32. The references of
-- spec/nn/families_spec.lua say that the CPU is right.
local missing = require "spec.cuda.gpu" ()
local helper = require "spec.helper"
local kava = require "kava"

local function difference(a, b)
  local _, most = kava.allclose(a, b, { rtol = 0, atol = 0 })
  return most / math.max(1e-3, b:abs():max():item())
end

describe("a decoder on cuda", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  local folder = "spec/golden/families"
  for _, name in ipairs(kava.fs.list(folder)) do
    if kava.fs.exists(("%s/%s/config.json"):format(folder, name)) then
      it(("(%s) computes what it computes on the cpu"):format(name), function()
        local ids = {}
        for i = 1, 14 do ids[i] = (i * 5) % 16 end
        local input = kava.tensor(ids, { shape = { 2, 7 }, dtype = "i64" })
        local mask = kava.tensor({ 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1 }, { shape = { 2, 7 }, dtype = "i64" })
        local found = {}
        for _, device in ipairs { "cpu", "cuda" } do
          local m = assert(kava.model.load(folder .. "/" .. name, { device = device, dtype = "f32" })):requires_grad(true)
          local out = m:forward { input_ids = input, attention_mask = mask }
          kava.loss.cross_entropy(out.logits, input, mask):backward()
          found[device] = { out = out, parameters = m:parameters() }
        end
        local here, there = found.cpu, found.cuda
        assert.equal("cuda", there.out.logits.device)
        local function real(t, dim) return t:narrow(1, 2, 1):narrow(dim, 3, 5) end
        assert.is_true(difference(real(there.out.logits, 2), real(here.out.logits, 2)) < 1e-4)
        for i = 1, here.out.kv:layers() do
          assert.is_true(difference(real(there.out.kv:keys(i), 3), real(here.out.kv:keys(i), 3)) < 1e-4)
          assert.is_true(difference(real(there.out.kv:values(i), 3), real(here.out.kv:values(i), 3)) < 1e-4)
        end
        for parameter, t in pairs(here.parameters) do
          local other = there.parameters[parameter]
          assert.equal(t.grad == nil, other.grad == nil, parameter)
          if t.grad then assert.is_true(difference(other.grad, t.grad) < 1e-3, parameter) end
        end
      end)
    end
  end

  it("is saved as it is from the cpu: a folder, and GGUF, whose rows are turned", function()
    local dir = helper.tmp()
    for _, device in ipairs { "cpu", "cuda" } do
      kava.seed(4)
      local m = kava.model.create({ model_type = "llama", vocab_size = 12, hidden_size = 32, intermediate_size = 32, num_hidden_layers = 1,
        num_attention_heads = 2, num_key_value_heads = 1, rms_norm_eps = 1e-6, rope_theta = 1e4 }, { device = device })
      assert(m:save(("%s/%s"):format(dir, device), { dtype = "bf16" }))
      assert(m:save(("%s/%s.gguf"):format(dir, device), { dtype = "q8_0" }))
    end
    for _, path in ipairs { "%s/%s.gguf", "%s/%s/model.safetensors" } do
      assert.is_true(helper.read(path:format(dir, "cpu")) == helper.read(path:format(dir, "cuda")), path)
    end
  end)
end)
