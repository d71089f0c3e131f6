-- LUMI's shape: a Cray with AMD GPUs under Slurm. Each of a node's four MI250X is two devices of 64 GB; homes hold 20 GB, /scratch and
-- /flash belong to projects, whose name is the account's (project_465000000).
return {
  -- Not the bare names of its machines: uan01 and nid001234 there are on other Crays as well. On a login node that has only such a name,
  -- KAVA_CLUSTER=lumi.
  match = { SLURM_CLUSTER_NAME = "lumi", host = "*.lumi.csc.fi" },

  device = "auto", -- rocm, where this build computes on it
  paths = {
    hpc_patterns = { "/flash/{$SLURM_JOB_ACCOUNT}/{username}/kava", "/scratch/{$SLURM_JOB_ACCOUNT}/{username}/kava" },
  },
  checkpoint = { every = 100 },
}
