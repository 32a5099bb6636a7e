// hosts/qemu: QEMU/KVM guests. `openQemu` turns what a user typed into a Host; the rest is for tests and tools.

export { type BackendKind, queryHypervisor } from './device-requests.ts';
export { isQemuSource, parseQemuSource, QEMU_SCHEMES, type QemuSource } from './endpoint.ts';
export { type QemuHostPorts, qemuHost } from './qemu-host.ts';
