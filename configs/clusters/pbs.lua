-- A PBS Pro site with CPU nodes: $WORK is kept, $TMPDIR is the node's own disk and gone when the job ends.
return {
  match = { host = { "*.example-pbs.org" }, PBS_O_HOST = "*.example-pbs.org" },

  device = "cpu",
  paths = {
    models = "{$WORK}/kava/models",
    data = "{$WORK}/kava/data",
    output = "{$WORK}/kava/outputs",
    cache = "{$TMPDIR}/kava", -- read often, made again in seconds
  },

  -- PBS gives SIGTERM ten seconds before the end and no earlier warning.
  checkpoint = { every = 50 },
}
