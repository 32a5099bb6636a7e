// dimmer/hosts/linux: the rim that touches this machine. Reads /proc and /sys; writes bundles and unpacked captures; linuxHost
// writes to /sys and /proc, and only when `apply` is said.

export { type LinuxHostOptions, linuxHost } from './linux-host.ts';
export { type CaptureRefusal, readCapture } from './read-capture.ts';
export { fsTree, machineFiles } from './root.ts';
export { unpackCapture, type WriteRefusal, writeBundle } from './write.ts';
