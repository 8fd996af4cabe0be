"""What this machine has: processors, GPUs, memory. No torch, so that planning and launching can ask."""
