-- The kernels of every instruction set this processor has: the specs that compare f32 with f64 run again with KAVA_ISA, which
-- is read when the first kernel is called, so each in a process of its own (not under a sanitizer, which that process lacks).
local kava = require "kava"
local helper = require "spec.helper"

local levels = { "reference", "avx2", "avx512", "avx512bf16" }
local specs = { "norm", "rope", "activation", "embedding", "dropout", "loss" }

describe("kernels of a lower instruction set", function()
  for _, isa in ipairs(levels) do
    if kava.isa() == isa or not kava.isa():find "^avx" or helper.sanitized then break end
    it("agree with the plain loops: " .. isa, function()
      local paths = {}
      for i, name in ipairs(specs) do paths[i] = "spec/ops/" .. name .. "_spec.lua" end
      table.move({ "spec/optim_spec.lua", "spec/formats/quantised_spec.lua" }, 1, 2, #paths + 1, paths)
      local output, code = helper.run(("KAVA_ISA=%s KAVA_BUILD=%s busted %s"):format(isa, helper.build, table.concat(paths, " ")))
      assert.equal(0, code, output)
      assert.is_truthy(output:find "0 failures / 0 errors", output)
    end)
  end
end)
