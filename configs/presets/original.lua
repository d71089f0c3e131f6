-- preset=original: the original's loss as it was: keys of all layers side by side, a trained projector on the teacher's side, cosine and
-- log magnitude, no anchor. It collapses on real models; the evaluation's collapse figures show it.
return {
  kv = { method = "concat", rope = "post", project = "teacher", hidden_ratio = 1.0, dropout = 0.1 },
  loss = { name = "mercator", weight = 1.0, ce = 0.0, kl = 0.0, alpha = 1.0, beta = 0.01, eps = 1e-8 },
}
