"""Many runs: planned, launched on a machine or a cluster, summarised. Nothing here loads torch."""
