-- A Slurm site with GPU nodes: copy it, name the copy after the cluster, and say how the site's machines are called. The commands of the
-- site are in scripts/submit_slurm.sh; here stands what differs between its machines and others.
return {
  -- Any one is enough. SLURM_CLUSTER_NAME is set in jobs only; the login nodes are known by their names.
  match = { SLURM_CLUSTER_NAME = "example-slurm", host = { "login[0-9].example-slurm.org", "gpu[0-9]*.example-slurm.org" } },

  paths = {
    -- Project storage first: /scratch is emptied every 30 days at many sites, so that models and results are kept elsewhere.
    hpc_patterns = { "/project/{$SLURM_JOB_ACCOUNT}/{username}/kava", "/scratch/{username}/kava" },
  },

  hardware = { gpu_detection = { fallback_to_cpu = false } }, -- GPU hours are paid for: a job that sees none ends at once
  checkpoint = { every = 100 },
}
