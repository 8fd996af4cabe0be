/* What torch's C++ asks a CUDA driver before it walks a graph backwards. Loaded in front of torch, under the
   name of the driver's library: so many devices are there (none until Python says so), no context is open. */
static signed char there = 0;
void pretend_devices(signed char count) { there = count; }
signed char _ZN3c104cuda12device_countEv(void) { return there; } /* c10::cuda::device_count */
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = *active = 0; }
