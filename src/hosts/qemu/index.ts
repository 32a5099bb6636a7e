// hosts/qemu: QEMU/KVM guests. What a user typed (parseQemuSource) becomes a monitor and an agent (openGuest), and these a Host (qemuHost).

export { type BackendKind, queryHypervisor } from './device-requests.ts';
export { isQemuSource, parseQemuSource, QEMU_SCHEMES, type QemuSource } from './endpoint.ts';
export { type OpenGuest, openGuest } from './endpoint-open.ts';
export { type QemuHostPorts, qemuHost } from './qemu-host.ts';
