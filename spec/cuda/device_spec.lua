-- Tensors on a GPU: making, moving, reading, saving them, what is refused, and the memory that they take. On an emulated GPU, whose
-- memory ends the program that touches it from the host, this is also the proof that nothing does.
local missing = require "spec.cuda.gpu" ()
local helper = require "spec.helper"
local kava = require "kava"

describe("a tensor on cuda", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("says where it is, and reads as one on the cpu does", function()
    local x = kava.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, { device = "cuda" })
    assert.equal("cuda", x.device)
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, x:totable())
    assert.equal(6, x:narrow(1, 2, 1):narrow(2, 3, 1):item())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, x:permute(2, 1):totable())
    assert.equal("kava.Tensor f32 [2, 3] cuda {1, 2, 3, 4, 5, 6}", tostring(x))
    assert.equal("kava.Tensor bool [2] cuda {true, false}", tostring(kava.tensor({ true, false }, { dtype = "bool", device = "cuda" })))
  end)

  it("is made in every plain type, and moves there and back", function()
    for _, dtype in ipairs { "f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool" } do
      local x = kava.tensor({ 0, 1, 1, 0 }, { dtype = dtype, shape = { 2, 2 } })
      local there = x:to { device = "cuda" }
      assert.equal(dtype, there.dtype)
      assert.same(x:totable(), there:totable())
      assert.same(x:totable(), there:to({ device = "cpu" }):totable())
      assert.same(x:totable(), kava.tensor({ 0, 1, 1, 0 }, { dtype = dtype, shape = { 2, 2 }, device = "cuda" }):totable())
    end
    assert.same({ 0, 0 }, kava.zeros({ 2 }, { device = "cuda" }):totable())
    assert.same({ 2.5, 2.5 }, kava.full({ 2 }, 2.5, { device = "cuda" }):totable())
    assert.same({ 3, 5 }, kava.arange(3, 7, 2, { device = "cuda" }):totable())
    assert.same({}, kava.zeros({ 0 }, { device = "cuda" }):totable())
    kava.seed(5)
    local here = kava.randn { 7 }
    kava.seed(5)
    assert.same(here:totable(), kava.randn({ 7 }, { device = "cuda" }):totable())
  end)

  it("changes type on the way, strided or not", function()
    local x = kava.tensor({ { 1.25, -2, 3 }, { 4, 5, 6 } }):permute(2, 1)
    assert.same({ { 1, 4 }, { -2, 5 }, { 3, 6 } }, x:to({ device = "cuda", dtype = "i32" }):totable())
    assert.same({ { 1.25, 4 }, { -2, 5 }, { 3, 6 } }, x:to({ device = "cuda" }):to({ device = "cpu", dtype = "f64" }):totable())
  end)

  it("is copied into from the cpu, and the other way round", function()
    local there, here = kava.zeros({ 2, 3 }, { device = "cuda" }), kava.tensor { { 1, 2, 3 }, { 4, 5, 6 } }
    there:copy_(here)
    assert.same(here:totable(), there:totable())
    there:permute(2, 1):narrow(1, 2, 2):copy_(kava.tensor { { 7, 8 }, { 9, 10 } })
    assert.same({ { 1, 7, 9 }, { 4, 8, 10 } }, there:totable())
    here:copy_(there)
    assert.same({ { 1, 7, 9 }, { 4, 8, 10 } }, here:totable())
    there:fill_(3)
    assert.same({ { 3, 3, 3 }, { 3, 3, 3 } }, there:totable())
    assert.is_true(kava.allclose(there, kava.full({ 2, 3 }, 3)))
  end)

  it("gives its gradient back to where it came from", function()
    local x = kava.tensor({ 1, 2, 3 }, { requires_grad = true })
    local y = x:to { device = "cuda" };
    (y * y):sum():backward()
    assert.equal("cpu", x.grad.device)
    assert.same({ 2, 4, 6 }, x.grad:totable())
    local leaf = kava.tensor({ 1, 2 }, { device = "cuda", requires_grad = true });
    (leaf * 3):sum():backward()
    assert.equal("cuda", leaf.grad.device)
    assert.same({ 3, 3 }, leaf.grad:totable())
  end)

  it("does not meet one on the cpu: the op and the argument are named", function()
    local here, there = kava.ones { 2, 2 }, kava.ones({ 2, 2 }, { device = "cuda" })
    for what, f in pairs {
      ["add: the second operand is on cuda, the others are on cpu"] = function() return here + there end,
      ["matmul: the right operand is on cpu, the others are on cuda"] = function() return there:matmul(here) end,
      ["linear: w is on cpu, the others are on cuda"] = function() return kava.linear(there, here) end,
      ["mercator: teacher is on cpu, the others are on cuda"] = function() return kava.loss.mercator(there, here) end,
      ["cat: one tensor is on cpu, the others are on cuda"] = function() return kava.cat({ there, here }, 1) end,
    } do assert.error_matches(f, what .. "; move one of them %(to{device = \"c%w+\"}%)") end
  end)

  it("of ids outside the table gives NaN, where nobody looked at them; ids on the cpu are looked at", function()
    local w, wrong = kava.ones({ 3, 2 }, { device = "cuda" }), kava.tensor({ 0, 3, -1 }, { dtype = "i64" })
    local y = kava.embedding(wrong:to { device = "cuda" }, w):totable()
    assert.same({ 1, 1 }, y[1])
    for i = 2, 3 do assert.is_true(y[i][1] ~= y[i][1] and y[i][2] ~= y[i][2]) end
    assert.has_error(function() kava.embedding(wrong, w) end, "embedding: id 3 at position 2 is outside the vocabulary of 3")
  end)

  it("is saved and checkpointed from there, strided ones too", function()
    local folder = helper.tmp()
    local x = kava.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, { device = "cuda" })
    assert.is_true(kava.safetensors.save(folder .. "/x.safetensors", { x = x, turned = x:permute(2, 1), row = x:narrow(1, 2, 1) }))
    local back = kava.safetensors.load(folder .. "/x.safetensors")
    assert.same(x:totable(), back.x:totable())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, back.turned:totable())
    assert.same({ { 4, 5, 6 } }, back.row:totable())
    assert.is_true(kava.checkpoint.save(folder .. "/c", { x = x }, { step = 1 }))
    assert.same(x:totable(), kava.checkpoint.load(folder .. "/c").x:totable())
  end)

  it("is multiplied whatever file of plans is there, or not", function()
    local path = helper.tmp() .. "/products.txt"
    assert.is_true(kava.plans("cuda", path))
    local x = kava.ones({ 3, 5 }, { device = "cuda" })
    assert.equal(5, x:matmul(x:permute(2, 1)):max():item())
    assert.is_true(kava.plans("cuda", path, true))
    helper.write(path, "kava plans 1, cuBLASLt 1, another GPU\n1 2 3\n")
    assert.is_true(kava.plans("cuda", path))
    assert.equal(5, x:matmul(x:permute(2, 1)):max():item())
  end)

  it("takes memory that is counted, and gives it back", function()
    collectgarbage()
    collectgarbage()
    local before = kava.memory().cuda.current
    do
      local x <close> = kava.zeros({ 1000 }, { device = "cuda" })
      assert.equal("cuda", x.device)
      assert.equal(4096, kava.memory().cuda.current - before)
    end
    local after = kava.memory().cuda
    assert.equal(before, after.current)
    assert.is_true(after.peak >= before + 4096 and after.free <= after.total)
  end)

  it("that memory has no room for is an error that says what was asked and what there is", function()
    local total = kava.memory().cuda.total
    assert.error_matches(function() return kava.zeros({ total }, { dtype = "f64", device = "cuda" }) end,
      "device cuda: out of memory: %d+%.%d MiB asked; of %d+%.%d MiB %d+%.%d are free, %d+%.%d are KAVA's")
    assert.same({ 1 }, kava.ones({ 1 }, { device = "cuda" }):totable())
  end)
end)

describe("device cuda", function()
  it("that is switched off is an error with its reason; a model says so as a file does", function()
    local text, code = helper.run(("KAVA_CUDA=off %s -e '%s'"):format(helper.program(), [[
      local kava = require "kava"
      local facts, why, code = kava.device "cuda"
      print(facts, why, code)
      print(kava.model.load("nowhere", { device = "cuda" }))
      print(pcall(kava.zeros, { 1 }, { device = "cuda" }))]]))
    assert.equal(0, code)
    local lines = {}
    for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.equal("nil\tdevice cuda: KAVA_CUDA=off\tunsupported", lines[1])
    assert.equal("nil\tdevice cuda: KAVA_CUDA=off\tunsupported", lines[2])
    assert.equal("false\tdevice cuda: KAVA_CUDA=off", lines[3])
  end)
end)
