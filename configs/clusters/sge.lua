-- A Grid Engine site: no variable says which GPUs are a job's (the site's prolog sets CUDA_VISIBLE_DEVICES or nothing does), homes are
-- small and shared, /work is large.
return {
  match = { SGE_CLUSTER_NAME = "example-sge", host = "*.example-sge.org" },

  paths = {
    hpc_patterns = { "/work/{username}/kava", "{scratch}/kava" },
  },

  hardware = { gpu_detection = { auto_detect = false } }, -- jobs that have GPUs say device=cuda themselves
  checkpoint = { every = 50, keep = 1 },
}
