-- effective_rank and mean_direction_norm.
local kava = require "kava"

describe("collapse", function()
  before_each(function() kava.seed(18) end)

  it("effective rank: orthogonal directions of one length count one each", function()
    for _, n in ipairs { 1, 2, 3, 8, 40 } do
      local x = kava.zeros { n, 64 }
      for i = 1, n do x:narrow(1, i, 1):narrow(2, (i * 7) % 64 + 1, 1):fill_(3) end
      assert.near(n, kava.effective_rank(x), 1e-9)
    end
  end)

  it("effective rank: exp of the entropy of the singular values", function()
    -- rotating diag(4, 3, 1) leaves its singular values: 4/8, 3/8, 1/8
    local d = kava.tensor({ { 4, 0, 0 }, { 0, 3, 0 }, { 0, 0, 1 } }, { dtype = "f64" })
    local c, s = math.cos(0.7), math.sin(0.7)
    local q = kava.tensor({ { c, -s, 0 }, { s, c, 0 }, { 0, 0, 1 } }, { dtype = "f64" })
    local r = kava.tensor({ { 1, 0, 0 }, { 0, c, s }, { 0, -s, c } }, { dtype = "f64" })
    local entropy = 0
    for _, p in ipairs { 0.5, 0.375, 0.125 } do entropy = entropy - p * math.log(p) end
    assert.near(math.exp(entropy), kava.effective_rank(r:matmul(q):matmul(d):matmul(r):matmul(q)), 1e-9)
  end)

  it("effective rank: 1 for rows on one line, near min(N, D) for noise, the sample's for many rows", function()
    assert.near(1, kava.effective_rank(kava.randn { 50, 1 } * kava.randn { 1, 300 }), 1e-4)
    local rank = kava.effective_rank(kava.randn { 64, 512 })
    assert.is_true(rank > 60 and rank <= 64)
    rank = kava.effective_rank(kava.randn { 20, 50, 24 })
    assert.is_true(rank > 23 and rank <= 24)
    assert.equal(0, kava.effective_rank(kava.zeros { 4, 4 }))
  end)

  it("mean direction: 1 when all rows point one way, small when they spread", function()
    local x = kava.randn { 1, 100 }
    assert.near(1, kava.mean_direction_norm(x:expand(30, 100) * (kava.rand { 30, 1 } + 0.1)), 1e-6)
    assert.is_true(kava.mean_direction_norm(kava.randn { 400, 100 }) < 0.1)
    assert.near(0, kava.mean_direction_norm(kava.tensor { { 2, 0 }, { -5, 0 } }), 1e-12)
  end)

  it("looks at the rows that the mask keeps", function()
    local x, mask = kava.randn { 2, 3, 10 }, kava.tensor { { 1, 0, 1 }, { 0, 1, 0 } }
    local kept = kava.stack({ x:select(1, 1):select(1, 1), x:select(1, 1):select(1, 3), x:select(1, 2):select(1, 2) }, 1)
    x:narrow(1, 1, 1):narrow(2, 2, 1):fill_(0 / 0)
    assert.near(kava.effective_rank(kept), kava.effective_rank(x, mask), 1e-12)
    assert.near(kava.mean_direction_norm(kept), kava.mean_direction_norm(x, mask), 1e-12)
  end)

  it("names what is wrong", function()
    assert.error_matches(function() kava.effective_rank(kava.full({ 2, 2 }, 0 / 0)) end, "not finite")
    assert.error_matches(function() kava.effective_rank(kava.zeros { 2, 2 }, kava.zeros { 2 }) end, "no row counts")
    assert.error_matches(function() kava.mean_direction_norm(kava.arange(3)) end, "float")
  end)
end)
