-- Every op on a GPU against the same op on the CPU, in f32: value and gradients. Both sum in f32, in other orders and with other
-- roundings of exp: 1e-4 of the size of what is compared is far more than that gives, and far less than a wrong formula does.
local missing = require "spec.cuda.gpu" ()
local kava = require "kava"

local function draws(...) return kava.randn { ... } end
local function ids(list) return kava.tensor(list, { dtype = "i64" }) end

-- name = function(leaves…) -> result; the leaves that get gradients, drawn anew for each case; others are on the CPU
local cases = {
  { "silu", { { 3, 7 } }, function(x) return kava.silu(x) end },
  { "gelu", { { 3, 7 } }, function(x) return kava.gelu(x) end },
  { "gelu_tanh", { { 3, 7 } }, function(x) return kava.gelu_tanh(x) end },
  { "relu", { { 3, 7 } }, function(x) return kava.relu(x) end },
  { "softcap", { { 3, 7 } }, function(x) return kava.softcap(x, 0.7) end },
  { "swiglu", { { 5, 9 }, { 5, 9 } }, function(gate, up) return kava.swiglu(gate, up) end },
  { "swiglu of one tensor", { { 5, 9 } }, function(x) return kava.swiglu(x, x) end },
  { "geglu, strided", { { 9, 5 }, { 9, 5 } }, function(gate, up) return kava.geglu(gate:permute(2, 1), up:permute(2, 1)) end },
  { "swiglu of a row that is shown for all", { { 1, 9 }, { 5, 9 } }, function(gate, up) return kava.swiglu(gate:expand(5, 9), up) end },
  { "rope and attention of a token that is shown for all", { { 2, 1, 2, 8 }, { 2, 4, 2, 8 } }, function(one, k)
    local q = one:expand(2, 4, 2, 8)
    return kava.attention { q = kava.rope(q, kava.tensor { 1, 0.1, 0.01 }), k = k, v = q }
  end },
  { "rms_norm", { { 2, 3, 33 }, { 33 } }, function(x, w) return kava.rms_norm(x, w) end },
  { "layer_norm", { { 5, 33 }, { 33 }, { 33 } }, function(x, w, b) return kava.layer_norm(x, w, b) end },
  { "linear", { { 2, 3, 10 }, { 7, 10 }, { 7 } }, function(x, w, b) return kava.linear(x, w, b) end },
  { "linear of a strided weight", { { 3, 10 }, { 10, 7 } }, function(x, w) return kava.linear(x, w:permute(2, 1)) end },
  { "linear, added", { { 2, 3, 10 }, { 7, 10 }, { 7 }, { 2, 3, 7 } }, function(x, w, b, r) return kava.linear(x, w, b, r) end },
  { "linear, added to what it is of", { { 3, 7 }, { 7, 7 } }, function(x, w) return kava.linear(x, w, nil, x) end },
  { "linear, added to two of that", { { 3, 7 }, { 7, 7 } }, function(x, w)
    local twice = x * 2
    return kava.linear(kava.rms_norm(twice), w, nil, twice) + twice
  end },
  { "linear, added to what is broadcast or turned", { { 3, 5 }, { 7, 5 }, { 7 }, { 7, 3 } }, function(x, w, row, turned)
    return kava.linear(x, w, nil, row) + kava.linear(x, w, nil, turned:permute(2, 1))
  end },
  { "norm_linear", { { 6 }, { 6 }, { 5, 6 }, { 5 } }, function(gamma, beta, w, b)
    return kava.norm_linear((w:detach() * 2):narrow(1, 1, 3), gamma, beta, w, b)
  end },
  { "matmul, batched", { { 2, 3, 4 }, { 2, 4, 5 } }, function(a, b) return a:matmul(b) end },
  { "matmul, broadcast and turned", { { 2, 3, 4 }, { 5, 4 } }, function(a, b) return a:matmul(b:permute(2, 1)) end },
  { "embedding", { { 11, 6 } }, function(w) return kava.embedding(ids { { 1, 5, 1 }, { 10, 0, 5 } }, w) end },
  { "embedding with padding", { { 11, 6 } }, function(w) return kava.embedding(ids { 1, 5, 1, 0 }, w, 1) end },
  { "index_select", { { 3, 5, 2 } }, function(x) return x:index_select(2, { 5, 1, 5 }) end },
  { "rope", { { 2, 3, 2, 8 } }, function(x) return kava.rope(x, kava.tensor { 1, 0.1, 0.01 }) end },
  { "rope at positions", { { 2, 2, 1, 6 } }, function(x)
    return kava.rope(x, kava.tensor { 1, 0.1, 0.01 }, ids { { 3, 4 }, { 0, 9 } }, 1.5)
  end },
  { "attention", { { 2, 5, 4, 16 }, { 2, 5, 2, 16 }, { 2, 5, 2, 16 } }, function(q, k, v)
    return kava.attention { q = q, k = k, v = v }
  end },
  { "attention of one tensor", { { 2, 5, 2, 16 } }, function(x) return kava.attention { q = x, k = x, v = x } end },
  { "attention_map of one tensor", { { 2, 5, 2, 16 } }, function(x) return kava.attention_map { q = x, k = x } end },
  { "attention with starts", { { 1, 6, 2, 16 }, { 1, 6, 1, 16 }, { 1, 6, 1, 16 } }, function(q, k, v)
    return kava.attention { q = q, k = k, v = v, start = ids { { 0, 0, 2, 2, 9, -3 } }, softcap = 2 }
  end },
  { "attention in a window", { { 1, 7, 2, 16 }, { 1, 7, 1, 16 }, { 1, 7, 1, 16 } }, function(q, k, v)
    return kava.attention { q = q, k = k, v = v, window = 3, start = kava.tensor({ { 0, 0, 0, 3, 3, 3, 3 } }, { dtype = "i32" }) }
  end },
  { "attention_map", { { 1, 5, 2, 16 }, { 1, 5, 1, 16 } }, function(q, k) return kava.attention_map { q = q, k = k, window = 4 } end },
  { "add, broadcast", { { 3, 4 }, { 4 } }, function(a, b) return a + b end },
  { "sub, broadcast", { { 3, 4 }, { 3, 1 } }, function(a, b) return a - b end },
  { "mul", { { 3, 4 }, { 3, 4 } }, function(a, b) return a * b end },
  { "div", { { 3, 4 }, { 4 } }, function(a, b) return a / (b:abs() + 1) end },
  { "power", { { 3, 4 }, { 4 } }, function(a, b) return (a:abs() + 0.5) ^ b end },
  { "numbers beside tensors", { { 3, 4 } }, function(x) return (2 * x - 1) / 4 + 1 / (x:abs() + 1) end },
  { "where", { { 3, 4 }, { 3, 4 } }, function(a, b) return kava.where(a:gt(0), a, b) end },
  { "exp log sqrt tanh sigmoid", { { 3, 4 } }, function(x) return (x:exp() + 1):log() + (x:abs() + 1):sqrt() * x:tanh() + x:sigmoid() end },
  { "clamp abs pow", { { 3, 4 } }, function(x) return x:clamp(-0.5, 0.5) * x:abs() + x ^ 2 end },
  { "sum over one, mean over another", { { 3, 4, 5 } }, function(x) return x:sum(2):mean(1) end },
  { "sum of all", { { 3, 4, 5 } }, function(x) return x:sum() end },
  { "max and min", { { 3, 4, 5 } }, function(x) return x:max(2) + x:min(2) end },
  { "norm", { { 3, 4 } }, function(x) return x:norm(2) end },
  { "softmax", { { 3, 40 } }, function(x) return x:softmax() end },
  { "log_softmax over the first", { { 6, 3 } }, function(x) return x:log_softmax(1) end },
  { "reshape, permute, narrow, select, expand", { { 2, 3, 4 } }, function(x)
    return x:permute(3, 1, 2):reshape(4, 6):narrow(1, 2, 2):select(2, 3):reshape(1, 2):expand(3, 2)
  end },
  { "cat and stack", { { 2, 3 }, { 2, 3 } }, function(a, b) return kava.cat({ a, b, kava.stack({ a, b }, 1):sum(1) }, 2) end },
  { "mercator", { { 2, 3, 9 }, { 2, 3, 9 } }, function(s, t)
    return (kava.loss.mercator(s, t, { mask = ids { { 1, 0, 1 }, { 1, 1, 0 } } }))
  end },
  { "cosine", { { 4, 9 }, { 4, 9 } }, function(s, t) return kava.loss.cosine(s, t) end },
  { "mse, relative", { { 4, 9 }, { 4, 9 } }, function(s, t)
    return kava.loss.mse(s, t, { relative = true, mask = ids { 1, 1, 0, 1 } })
  end },
  { "smooth_l1", { { 4, 9 }, { 4, 9 } }, function(s, t) return kava.loss.smooth_l1(s, t, { beta = 0.7 }) end },
  { "cross_entropy", { { 2, 4, 13 } }, function(x)
    return kava.loss.cross_entropy(x, ids { { 1, 12, 3, 4 }, { 0, 0, 7, 8 } }, ids { { 1, 1, 1, 0 }, { 1, 1, 1, 1 } })
  end },
  { "kl", { { 4, 13 }, { 4, 13 } }, function(s, t) return kava.loss.kl(s, t, { temperature = 2, mask = ids { 1, 0, 1, 1 } }) end },
  { "head", { { 2, 3, 8 }, { 13, 8 } }, function(hidden, weight)
    return (kava.loss.head { hidden = hidden, weight = weight, teacher_hidden = hidden:detach() * 2, teacher_weight = weight:detach() + 1,
      targets = ids { { 1, -1, 12 }, { 0, 3, -1 } }, temperature = 1.5, softcap = 5 }) * 3
  end },
  { "head, weights on the device", { { 2, 3, 8 }, { 13, 8 } }, function(hidden, weight)
    local function one(x) return kava.tensor(x, { dtype = hidden.dtype == "f64" and "f64" or "f32" }):to { device = hidden.device } end
    return (kava.loss.head { hidden = hidden, weight = weight, teacher_hidden = hidden:detach() * 2, teacher_weight = weight:detach() + 1,
      targets = ids { { 1, -1, 12 }, { 0, 3, -1 } }, ce_weight = one(0.5), kl_weight = one(3) })
  end },
}

-- Value and gradients of a case on a device, as tensors on the CPU.
local function run(case, leaves, device, dtype)
  local there, out = {}, {}
  for i, leaf in ipairs(leaves) do
    there[i] = leaf:to({ device = device, dtype = dtype }):detach():clone():requires_grad(true)
  end
  local y = case[3](table.unpack(there))
  assert.equal(device, y.device)
  out[1] = y:to { device = "cpu" }
  kava.seed(9)
  local weights = kava.rand(#y.shape > 0 and y.shape or { 1 }) + 0.5
  if #y.shape == 0 then weights = weights:reshape {} end
  (y * weights:to { device = device, dtype = y.dtype }):sum():backward()
  for i, leaf in ipairs(there) do
    assert.truthy(leaf.grad, "leaf " .. i .. " has no gradient")
    out[i + 1] = leaf.grad:to { device = "cpu" }
  end
  return out
end

describe("an op on cuda", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  for _, case in ipairs(cases) do
    it(("(%s) does what it does on the cpu"):format(case[1]), function()
      kava.seed(31)
      local leaves = {}
      for i, shape in ipairs(case[2]) do leaves[i] = draws(table.unpack(shape)) end
      local here, there = run(case, leaves, "cpu"), run(case, leaves, "cuda")
      for i, expected in ipairs(here) do
        local size = math.max(1, expected:abs():max():item())
        local ok, most = kava.allclose(there[i], expected, { rtol = 0, atol = 1e-4 * size })
        assert.is_true(ok, ("%s differs by %g of %g"):format(i == 1 and "the value" or "gradient " .. i - 1, most, size))
      end
    end)
  end

  for _, dtype in ipairs { "bf16", "f16" } do
    for _, case in ipairs(cases) do
      it(("(%s) in %s does what it does in f32, but for the rounding"):format(case[1], dtype), function()
        kava.seed(31)
        local leaves = {}
        for i, shape in ipairs(case[2]) do leaves[i] = draws(table.unpack(shape)):to({ dtype = dtype }):to { dtype = "f32" } end
        local expected, got = run(case, leaves, "cpu"), run(case, leaves, "cuda", dtype)
        for i, t in ipairs(expected) do
          if i > 1 then assert.equal("f32", got[i].dtype) end -- of a leaf
          -- results of a few roundings of 2^-9 (bf16; f16 has 2^-12), some of which meet larger numbers on the way
          local size = math.max(1, t:abs():max():item())
          local ok, most = kava.allclose(got[i]:to { dtype = "f32" }, t, { rtol = 0, atol = 0.04 * size })
          assert.is_true(ok, ("%s differs by %g of %g"):format(i == 1 and "the value" or "gradient " .. i - 1, most, size))
        end
      end)
    end
  end

  it("that is not differentiated does what it does on the cpu", function()
    kava.seed(4)
    local x = kava.randn { 3, 5 }
    local y = x:to { device = "cuda" }
    assert.same(x:argmax(2):totable(), y:argmax(2):totable())
    assert.same(x:gt(0):totable(), y:gt(0):totable())
    assert.same((x:gt(0):to { dtype = "i32" } * 3 + 1):totable(), (y:gt(0):to { dtype = "i32" } * 3 + 1):totable())
    assert.same(kava.loss.targets(ids { { 1, 2, 3 } }, ids { { 1, 1, 0 } }):totable(),
      kava.loss.targets(ids({ { 1, 2, 3 } }):to { device = "cuda" }, ids { { 1, 1, 0 } }):totable())
    assert.same({ { 2, 3, -1 } }, kava.loss.targets(ids({ { 1, 2, 3 } }):to { device = "cuda" }):totable())
    assert.near(kava.effective_rank(x), kava.effective_rank(y), 1e-9)
    assert.near(kava.mean_direction_norm(x), kava.mean_direction_norm(y), 1e-9)
  end)

  it("drops the same elements on both devices", function()
    local x = kava.ones { 100 }
    kava.seed(6)
    local here = kava.dropout(x, 0.3)
    kava.seed(6)
    assert.is_true(kava.allclose(kava.dropout(x:to { device = "cuda" }, 0.3), here, { rtol = 1e-6 }))
  end)

  it("drops of an activation what a dropout behind it would, bit for bit", function()
    local z = (kava.randn { 40, 72 } * 3):to { device = "cuda", dtype = "bf16" }
    local w = kava.randn({ 8, 72 }):to { device = "cuda", dtype = "bf16" }
    for _, name in ipairs { "silu", "gelu" } do
      local function step(f)
        kava.rng_state(6, 2)
        local x, weight = z:clone():requires_grad(true), w:clone():requires_grad(true)
        local y = f(x * 1)
        local values = y:totable()
        local loss = kava.linear(y, weight):sum()
        y = nil -- luacheck: ignore 311
        collectgarbage()
        loss:backward()
        return { values, x.grad:totable(), weight.grad:totable() }
      end
      assert.same(step(function(x) return kava.dropout(kava[name](x), 0.3) end),
        step(function(x) return kava[name](x, { dropout = 0.3 }) end))
    end
  end)

  it("works beyond 65535, the most that a grid has in y and z", function()
    if kava.device("cuda").name == "emulated" then return pending "skipped: 200000 blocks take the emulator half a minute" end
    local x = kava.ones({ 70000, 3 }, { device = "cuda", requires_grad = true })
    x:index_select(2, { 1, 3, 1 }):sum():backward()
    assert.equal(210000, x.grad:sum():item())
    assert.same({ { 2, 0, 1 } }, x.grad:narrow(1, 70000, 1):totable())
    local left, right = kava.zeros({ 70000, 2, 0 }, { device = "cuda" }), kava.zeros({ 70000, 0, 2 }, { device = "cuda" })
    assert.same({ 70000, 2, 2 }, left:matmul(right).shape)
    assert.equal(0, left:matmul(right):abs():max():item())
  end)

  it("reads quantised weights", function()
    kava.seed(8)
    local w, x = kava.randn { 32, 256 }, kava.randn { 5, 256 }
    local held = { kava.gguf.quantize(w, "q4_1"), kava.gguf.quantize(w, "q8_0") }
    for _, how in ipairs { "nf4", "nf4-dq", "int8", "fp8" } do held[#held + 1] = kava.quant.encode(w, how) end
    for _, q in ipairs(held) do
      local there = q:to { device = "cuda" }
      assert.is_true(kava.allclose(there:to { dtype = "f32" }, q:to { dtype = "f32" }, { rtol = 1e-6, atol = 1e-7 }), q.dtype)
      assert.is_true(kava.allclose(kava.linear(x:to { device = "cuda" }, there), kava.linear(x, q), { rtol = 0, atol = 1e-3 }), q.dtype)
      assert.is_true(kava.allclose(kava.linear(x:to { device = "cuda" }, there:narrow(1, 9, 8)), kava.linear(x, q:narrow(1, 9, 8)),
        { rtol = 0, atol = 1e-3 }), q.dtype .. " in part")
    end
  end)
end)
